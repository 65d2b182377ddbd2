// A closed-loop HTTP/1.1 load generator: N keep-alive connections, each sends the same request again as soon as its
// answer is complete. One thread, so that it costs the server's machine little.
//
//   load ADDRESS REQUEST_FILE CONNECTIONS REQUESTS WARMUP
//
// ADDRESS is a Unix socket's path (with a slash) or HOST:PORT (IPv4). REQUEST_FILE holds the request's bytes, head and
// body. WARMUP requests go first and are not measured. Prints {"p50_us", "p99_us", "rps", "requests"}; a latency runs
// from before the first byte is sent until after the last byte is read. Any answer but 200 ends it with status 1.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 65536
#define EVENTS 64

struct connection {
    int fd;
    size_t sent;      // bytes of the request
    size_t received;  // bytes of the answer
    size_t wanted;    // of head and body together; 0 until the head is complete
    double started;   // seconds
    char head[HEAD_MAX + 1];
};

static const char *request;
static size_t request_size;
static double *latencies;
static long measured, todo, warmup;

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "see above");
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void read_request(const char *path) {
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) < 0) fail(path);
    request_size = (size_t)status.st_size;
    char *data = malloc(request_size);
    for (size_t have = 0; have < request_size;) {
        ssize_t got = read(fd, data + have, request_size - have);
        if (got <= 0) fail(path);
        have += (size_t)got;
    }
    close(fd);
    request = data;
}

static int open_connection(const char *address) {
    int fd;
    if (strchr(address, '/')) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        if (strlen(address) >= sizeof to.sun_path) fail("the path is too long");
        strcpy(to.sun_path, address);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail(address);
        return fd;
    }
    struct sockaddr_in to = {.sin_family = AF_INET};
    const char *colon = strrchr(address, ':');
    char host[64] = "";
    if (!colon || colon - address >= (long)sizeof host) fail("the address is neither a path nor HOST:PORT");
    memcpy(host, address, (size_t)(colon - address));
    to.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1) fail("the host must be an IPv4 address");
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail(address);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void begin(struct connection *it) {
    it->sent = it->received = it->wanted = 0;
    it->started = now();
}

// Sets `wanted` once the head is complete.
static void look_at_head(struct connection *it) {
    it->head[it->received] = '\0';
    char *end = strstr(it->head, "\r\n\r\n");
    if (!end) {
        if (it->received == HEAD_MAX) fail("the answer's head is too long");
        return;
    }
    if (strncmp(it->head, "HTTP/1.1 200", 12) != 0) {
        fprintf(stderr, "load: not 200: %.600s\n", it->head);
        exit(1);
    }
    size_t length = 0;
    for (char *line = strstr(it->head, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, "content-length:", 15) == 0) length = strtoul(line + 17, NULL, 10);
    it->wanted = (size_t)(end + 4 - it->head) + length;
}

// False when the socket has nothing more just now (it never says so when it blocks).
static int push(struct connection *it) {
    while (it->sent < request_size) {
        ssize_t size = send(it->fd, request + it->sent, request_size - it->sent, MSG_NOSIGNAL);
        if (size < 0 && errno == EAGAIN) return 0;
        if (size <= 0) fail("send");
        it->sent += (size_t)size;
    }
    return 1;
}

static int pull(struct connection *it) {
    static char rest[1 << 18];
    while (!it->wanted || it->received < it->wanted) {
        int in_head = !it->wanted;
        ssize_t size = in_head ? recv(it->fd, it->head + it->received, HEAD_MAX - it->received, 0)
                               : recv(it->fd, rest, sizeof rest, 0);
        if (size < 0 && errno == EAGAIN) return 0;
        if (size == 0) errno = ECONNRESET;
        if (size <= 0) fail("recv");
        it->received += (size_t)size;
        if (in_head) look_at_head(it);
    }
    return 1;
}

// Goes on as far as the socket lets it; false when all requests are done.
static int advance(struct connection *it) {
    while (push(it) && pull(it)) {
        if (warmup > 0) {
            warmup--;
        } else {
            latencies[measured++] = now() - it->started;
            if (measured == todo) return 0;
        }
        begin(it);
    }
    return 1;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: load ADDRESS REQUEST_FILE CONNECTIONS REQUESTS WARMUP\n");
        return 2;
    }
    int count = atoi(argv[3]);
    todo = atol(argv[4]);
    warmup = atol(argv[5]);
    if (count < 1 || todo < 1) fail("CONNECTIONS and REQUESTS must be positive");
    read_request(argv[2]);
    latencies = malloc(sizeof(double) * (size_t)todo);
    struct connection *all = calloc((size_t)count, sizeof *all);
    int poller = epoll_create1(0);
    if (!latencies || !all || poller < 0) fail("start");
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &all[i]};
        all[i].fd = open_connection(argv[1]);
        if (count > 1 && fcntl(all[i].fd, F_SETFL, O_NONBLOCK) < 0) fail("fcntl");
        if (epoll_ctl(poller, EPOLL_CTL_ADD, all[i].fd, &event) < 0) fail("epoll_ctl");
        begin(&all[i]);
    }
    double started = now();
    long before = warmup;
    for (int more = 1; more;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; more && i < ready; i++) more = advance(events[i].data.ptr);
    }
    double rps = (double)(todo + before) / (now() - started);
    qsort(latencies, (size_t)todo, sizeof *latencies, by_value);
    printf("{\"p50_us\": %.2f, \"p99_us\": %.2f, \"rps\": %.1f, \"requests\": %ld}\n", 1e6 * latencies[todo / 2],
           1e6 * latencies[todo * 99 / 100], rps, todo);
    return 0;
}
