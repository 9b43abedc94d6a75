// Message ids and the feed: decide whether a reader of one ticket has missed something. No I/O.
// delivery/feed.py is the same; tests/vectors/feed.json is run by both sides' tests, so they cannot drift.

/** "1616690567456-0" -> [1616690567456n, 0n]. Halves go up to 2^64 - 1, so they are BigInts. */
export function parseId(text) {
  const match = /^(\d{1,20})(?:-(\d{1,20}))?$/.exec(text);
  if (match === null) throw new Error(`message id is ${JSON.stringify(text)}, expected <milliseconds>-<sequence>`);
  return [BigInt(match[1]), BigInt(match[2] ?? 0)];
}

/** Below 0, 0 or above 0, as for Array.sort. */
export function compareIds(a, b) {
  const [x, y] = [parseId(a), parseId(b)];
  const half = x[0] === y[0] ? 1 : 0;
  return x[half] < y[half] ? -1 : x[half] > y[half] ? 1 : 0;
}

/** How far one reader has come in one ticket. */
export class Feed {
  constructor(at) {
    this.at = at;
  }

  /** Say what to do with `event`, whose predecessor in the log is `prev`: "deliver", "duplicate" or "gap". */
  judge(event, prev) {
    if (compareIds(event, this.at) <= 0) return "duplicate";
    if (compareIds(prev, this.at) !== 0) return "gap"; // also when prev is older: a lost log starts its chain anew
    this.at = event;
    return "deliver";
  }
}
