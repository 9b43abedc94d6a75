"""Guess whether a text is clearly in a language. Pure.

Only asked once a term of a language's list was found: the German *dick* and the Spanish *negro* are
everyday words. A guess that is unsure lets the rule apply.
"""

from __future__ import annotations

import re
from itertools import islice

from workers.moderation.wordsets import words

_WORDS = {
    "de": words(
        """
        der die das und ich ist nicht ein eine mit für auf zu den von sie wir mein meine habe wie wird bei
        auch noch kann bitte danke aber im dem es am war wurde sehr zum
        """
    ),
    "en": words(
        """
        the and is to of in you that it for was my with this have are not be at on i your we can please
        thanks but what when how so do an me as all just who will
        """
    ),
    "es": words(
        """
        el la los las de que y en un una es no por para con mi su se lo me pero muy está como más gracias
        hola del al tengo quiero mis favor
        """
    ),
    "fr": words(
        """
        le la les de des et est je un une pas que pour vous dans ce il qui mon ma sur au avec ne nous merci
        mais bonjour très mes du en votre suis ai
        """
    ),
    "it": words(
        """
        il lo la gli di che e un una non per con mi si sono ho è del della grazie ma come più ciao alla nel
        mio mia questo vorrei
        """
    ),
    "nl": words(
        """
        de het een en ik is niet van dat op te in voor met zijn je mijn er maar heb aan om ook wat bij nog
        naar dank kan wel deze
        """
    ),
    "pl": words(
        """
        nie się na jest to do że i w z mam mi proszę dziękuję ale jak co czy moje dla od mój już po tak
        """
    ),
    "pt": words(
        """
        o a os as de que e um uma não para com por em meu minha mas muito obrigado do da no na se está eu
        você olá
        """
    ),
    "ru": words(
        """
        и в не на я что с по это как мой моя но за у из мне к вы так от для
        """
    ),
}
LANGUAGES = frozenset(_WORDS)
# Single letters are what is left of words that were taken apart.
_TOKEN = re.compile(r"[^\W\d_]{2,}")
# So many frequent words of one language, and twice as many as of the language asked about, make it clear.
_CLEAR = 2
_MAX_TOKENS = 200


def scores(text: str) -> dict[str, int]:
    """Return how many frequent words of each language *text* holds, among the first `_MAX_TOKENS`."""
    tokens = [match[0] for match in islice(_TOKEN.finditer(text.lower()), _MAX_TOKENS)]
    return {language: sum(map(frequent.__contains__, tokens)) for language, frequent in _WORDS.items()}


def may_be(score: dict[str, int], language: str) -> bool:
    """Say whether a text with these `scores` may be in *language*: false only if it is clearly in another one."""
    if language not in _WORDS:
        return True
    best = max(score.values())
    return best < _CLEAR or best < 2 * score[language] or score[language] == best
