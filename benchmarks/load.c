/* A load generator for HTTP/1.1 that costs the machine little: one thread, epoll, requests written as they are given.
 *
 *     load HOST PORT REQUESTS closed CALLERS SECONDS SEED CONNECTIONS OUT
 *     load HOST PORT REQUESTS poisson|constant RATE SECONDS SEED CONNECTIONS OUT
 *
 * REQUESTS holds whole requests, each after its length as 4 little-endian bytes. In an open loop requests start when
 * the arrival process says; one that finds every connection busy waits, and its time counts from the intended start.
 * OUT receives one record a request: intended, sent and done in seconds of CLOCK_MONOTONIC (doubles), the FNV-1a hash
 * of the answer's body (8 bytes), the status (4 bytes: an HTTP status, -1 for a connection that broke, 0 for no answer
 * within GRACE_S of the end) and the request's index (4 bytes). Standard output ends with the CPU seconds used.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define GRACE_S 10.0
#define RETRY_S 0.01 /* a caller whose connection was refused must not ask a million times a second */
#define HEAD 4096

typedef struct { double intended, sent, done; uint64_t hash; int32_t status, index; } Record;
typedef struct { const char *bytes; uint32_t length; } Request;
typedef struct {
    int fd, busy, status, in_body, closing, out, index, used;
    size_t written, head_length, body_left;
    uint64_t hash;
    double intended, sent, retry_at;
    char head[HEAD + 1];
} Connection;
typedef struct { double at; int index; } Waiting;

static struct sockaddr_in address;
static Request *requests;
static int request_count, epoll_fd, connection_count;
static Connection *connections;
static Record *records;
static size_t recorded, record_room;
static uint64_t state;

static volatile sig_atomic_t stopped; /* SIGTERM ends the run early */

static void stop(int number) { (void)number; stopped = 1; }

static void die(const char *what) { perror(what); exit(1); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double uniform(void) { /* splitmix64, in (0, 1] */
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return ((z ^ (z >> 31)) >> 11) * 0x1p-53 + 0x1p-54;
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    uint32_t length;
    if (!file) die(path);
    while (fread(&length, 4, 1, file) == 1) {
        char *bytes = malloc(length);
        if (!bytes || fread(bytes, 1, length, file) != length) die("requests");
        requests = realloc(requests, (request_count + 1) * sizeof *requests);
        requests[request_count++] = (Request){bytes, length};
    }
    fclose(file);
}

static void watch(Connection *c, int out) {
    if (c->out == out) return;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, c->out < 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &event);
    c->out = out;
}

static int reach(Connection *c) {
    int one = 1, room = 1 << 20;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room); /* most requests leave in one call */
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        close(c->fd);
        c->fd = -1;
        return 0;
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->out = -1;
    c->used = 0;
    watch(c, 0);
    return 1;
}

static void finish(Connection *c, int status) {
    if (recorded == record_room) {
        record_room = record_room ? 2 * record_room : 1 << 16;
        if (!(records = realloc(records, record_room * sizeof *records))) die("records");
    }
    records[recorded++] = (Record){c->intended, c->sent, now(), c->hash, status, c->index};
    c->busy = 0;
    c->used = 1;
    if (status < 0 || c->closing) {
        if (c->fd >= 0) close(c->fd);
        c->fd = -1;
        if (status < 0) c->retry_at = now() + RETRY_S;
    }
}

static void push(Connection *c) {
    const Request *r = &requests[c->index];
    while (c->written < r->length) {
        ssize_t n = send(c->fd, r->bytes + c->written, r->length - c->written, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) { watch(c, 1); return; }
        if (n < 0) return; /* an answer may have come before the connection broke: reading tells */
        c->written += n;
    }
    watch(c, 0);
}

static void begin(Connection *c, double intended, int index) {
    c->busy = 1;
    c->index = index;
    c->intended = intended;
    c->sent = now();
    c->written = c->head_length = c->body_left = 0;
    c->in_body = c->closing = c->status = 0;
    c->hash = 0xcbf29ce484222325ull;
    if (c->fd < 0 && !reach(c)) { finish(c, -1); return; }
    push(c);
}

static void take_body(Connection *c, const char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) c->hash = (c->hash ^ (uint8_t)bytes[i]) * 0x100000001b3ull;
    c->body_left -= length < c->body_left ? length : c->body_left;
    if (!c->body_left) finish(c, c->status);
}

static void take_head(Connection *c) {
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return;
    size_t rest = c->head_length - (end + 4 - c->head);
    char *length = strcasestr(c->head, "\r\ncontent-length:"), *close = strcasestr(c->head, "\r\nconnection: close");
    c->status = atoi(c->head + 9);
    c->body_left = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    c->closing = close && close < end;
    c->in_body = 1;
    take_body(c, end + 4, rest);
}

static void pull(Connection *c) {
    static char buffer[1 << 16];
    for (;;) {
        int head = !c->in_body;
        ssize_t n = head ? recv(c->fd, c->head + c->head_length, HEAD - c->head_length, 0)
                         : recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            c->closing = 1;
            if (c->busy) finish(c, -1);
            else if (c->fd >= 0) { close(c->fd); c->fd = -1; }
            return;
        }
        if (!c->busy) continue;
        if (head) {
            c->head_length += n;
            c->head[c->head_length] = 0;
            take_head(c);
        } else take_body(c, buffer, n);
        if (!c->busy) return;
    }
}

int main(int argc, char **argv) {
    if (argc != 10) { fprintf(stderr, "load HOST PORT REQUESTS MODE RATE SECONDS SEED CONNECTIONS OUT\n"); return 2; }
    int closed = !strcmp(argv[4], "closed"), poisson = !strcmp(argv[4], "poisson");
    double rate = atof(argv[5]), seconds = atof(argv[6]);
    state = strtoull(argv[7], NULL, 10) * 0x9e3779b97f4a7c15ull;
    connection_count = closed ? (int)rate : atoi(argv[8]);
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) die("host");
    read_requests(argv[3]);
    epoll_fd = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &event);
    connections = calloc(connection_count, sizeof *connections);
    for (int i = 0; i < connection_count; i++) {
        connections[i].fd = -1;
        if (closed && !reach(&connections[i])) die("connect");
    }
    signal(SIGTERM, stop);
    double start = now(), next = start, end = start + seconds;
    size_t first = 0, last = 0, room = 1 << 16;
    Waiting *queue = malloc(room * sizeof *queue);
    int busy = 0;
    for (;;) {
        double t = now();
        if (stopped && t < end) end = t;
        while (!closed && next <= t && next < end) {
            if (last == room) {
                memmove(queue, queue + first, (last - first) * sizeof *queue);
                last -= first;
                first = 0;
                if (last > room / 2 && !(queue = realloc(queue, (room *= 2) * sizeof *queue))) die("queue");
            }
            queue[last++] = (Waiting){next, (int)(uniform() * request_count) % request_count};
            next += poisson ? -log(uniform()) / rate : 1 / rate;
        }
        double wake = closed ? end : next < end ? next : t + 0.1;
        busy = 0;
        for (int i = 0; i < connection_count; i++) {
            Connection *c = &connections[i];
            if (!c->busy && c->retry_at <= t) {
                if (closed && t < end) begin(c, t, (int)(uniform() * request_count) % request_count);
                else if (first < last) { begin(c, queue[first].at, queue[first].index); first++; }
            } else if (!c->busy && c->retry_at < wake) wake = c->retry_at;
            busy += c->busy;
        }
        t = now();
        if ((t >= end && !busy && first == last) || t > end + GRACE_S) break;
        if (wake <= t) wake = t + 1e-6;
        struct itimerspec spec = {.it_value = {(time_t)wake, (long)((wake - (time_t)wake) * 1e9) + 1}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
        int n = epoll_wait(epoll_fd, events, 256, 1000);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            uint64_t rings;
            if (!c) { if (read(timer, &rings, 8) < 0 && errno != EAGAIN) die("timer"); continue; }
            if (c->fd >= 0 && (events[i].events & EPOLLOUT)) push(c);
            if (c->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) pull(c);
        }
    }
    for (int i = 0; i < connection_count; i++) if (connections[i].busy) finish(&connections[i], 0);
    FILE *out = fopen(argv[9], "wb");
    if (!out || fwrite(records, sizeof *records, recorded, out) != recorded || fclose(out)) die(argv[9]);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%.6f %.6f %.6f\n", used.ru_utime.tv_sec + used.ru_stime.tv_sec
           + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6, start, end);
    return 0;
}
