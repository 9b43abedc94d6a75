// The floor: what the system calls alone cost. One thread, epoll, one send(2) of the same bytes to every socket of a room;
// no checks, no history, no bounds. It knows just enough HTTP and WebSocket for bench/peers/loadgen:
//
//   floor PORT
//   GET  /ws?room=roomN    a WebSocket in room N (the accept key is not computed)
//   POST /pub?room=roomN   the body goes to all sockets of the room as one text frame
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 20000 // descriptors, and rooms

typedef struct {
    int up, size;
    char *data; // a request that is not complete
} Peer;

typedef struct {
    int *sockets, count, space;
} Room;

static Peer peers[MOST];
static Room rooms[MOST];

// Nothing is queued: a full buffer is waited for.
static void out(int fd, const char *data, int size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno != EAGAIN) return;
            usleep(200);
            continue;
        }
        data += sent;
        size -= sent;
    }
}

static void publish(Room *room, const char *text, int size) {
    static unsigned char frame[65536 + 4];
    int head = 2;
    frame[0] = 0x81;
    if (size < 126) {
        frame[1] = size;
    } else {
        frame[1] = 126;
        frame[2] = size >> 8;
        frame[3] = size;
        head = 4;
    }
    memcpy(frame + head, text, size);
    for (int i = 0; i < room->count; i++) out(room->sockets[i], (char *)frame, head + size);
}

static void join(Room *room, int fd) {
    if (room->count == room->space) {
        room->space = room->space ? room->space * 2 : 4;
        room->sockets = realloc(room->sockets, room->space * sizeof(int));
    }
    room->sockets[room->count++] = fd;
}

// Takes one request; returns its length, 0 while it is not complete. What sockets say (pongs) is dropped.
static int take(int fd, Peer *peer) {
    if (peer->up) return peer->size;
    char *end = memmem(peer->data, peer->size, "\r\n\r\n", 4);
    if (!end) return 0;
    int head = end + 4 - peer->data;
    *end = 0;
    char *name = strstr(peer->data, "room=room");
    Room *room = &rooms[name ? atoi(name + 9) % MOST : 0];
    if (!strncmp(peer->data, "GET ", 4)) {
        static const char yes[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        out(fd, yes, sizeof yes - 1);
        join(room, fd);
        peer->up = 1;
        return head;
    }
    char *length = strcasestr(peer->data, "content-length:");
    int size = length ? atoi(length + 15) : 0;
    if (size > 65535) exit(2);
    if (peer->size < head + size) {
        *end = '\r';
        return 0;
    }
    publish(room, peer->data + head, size);
    static const char done[] = "HTTP/1.1 204 No Content\r\n\r\n";
    out(fd, done, sizeof done - 1);
    return head + size;
}

static void leave(int fd, Peer *peer) {
    for (int r = 0; peer->up && r < MOST; r++)
        for (int i = 0; i < rooms[r].count; i++)
            if (rooms[r].sockets[i] == fd) rooms[r].sockets[i--] = rooms[r].sockets[--rooms[r].count];
    close(fd);
    free(peer->data);
    *peer = (Peer){0};
}

int main(int argc, char **argv) {
    int one = 1, epoll = epoll_create1(0), door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (argc != 2) return fprintf(stderr, "usage: floor PORT\n"), 2;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(door, (void *)&address, sizeof address) || listen(door, 4096)) return perror("floor"), 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = door}, events[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, door, &event);
    static char read_into[65536];
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == door) {
                int fresh;
                while ((fresh = accept4(door, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    if (fresh >= MOST) return fprintf(stderr, "floor: more than %d sockets\n", MOST), 1;
                    setsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    event = (struct epoll_event){.events = EPOLLIN, .data.fd = fresh};
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fresh, &event);
                }
                continue;
            }
            Peer *peer = &peers[fd];
            ssize_t got = read(fd, read_into, sizeof read_into);
            if (got <= 0) {
                if (got == 0 || errno != EAGAIN) leave(fd, peer);
                continue;
            }
            peer->data = realloc(peer->data, peer->size + got + 1);
            memcpy(peer->data + peer->size, read_into, got);
            peer->size += got;
            peer->data[peer->size] = 0;
            for (int used; peer->size && (used = take(fd, peer)); peer->data[peer->size] = 0) {
                peer->size -= used;
                memmove(peer->data, peer->data + used, peer->size);
            }
            if (!peer->size) {
                free(peer->data);
                peer->data = 0;
            }
        }
    }
}
