// SPDX-License-Identifier: Apache-2.0
/* The bench's load for redis: load.c's questions and figures over one TCP connection, pipelined.
 *
 * redis_load HOST PORT FILE OUTSTANDING
 *
 * FILE is u32 count, u32 bytes, u32 reply (native), then count commands of `bytes` each, all of which draw replies of
 * `reply` bytes. What may be outstanding is written at once, as load.c sends it as one train. Prints one JSON object. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

enum { ROOM = 1 << 18 };

struct questions {
	uint32_t count, bytes, reply;
	char commands[];
};

static int connected(const char *host, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(host) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		die("connect");
	return fd;
}

static void write_all(int fd, const char *from, size_t length)
{
	while (length) {
		ssize_t n = write(fd, from, length);

		if (n <= 0)
			die("write");
		from += n;
		length -= n;
	}
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Read what is there; the end of each reply says how long its command took. Returns how many have ended so far. */
static uint32_t hear(int fd, const struct questions *q, uint64_t *heard, const uint64_t *sent_at, uint32_t *latency)
{
	static char room[ROOM];
	ssize_t n = read(fd, room, ROOM);
	uint64_t at = read_clock(CLOCK_MONOTONIC), before = *heard / q->reply;

	if (n <= 0)
		die("read");
	if (*heard % q->reply == 0 && room[0] == '-') {
		fprintf(stderr, "redis refused: %.*s\n", (int)n, room);
		exit(1);
	}
	*heard += n;
	for (uint64_t i = before; i < *heard / q->reply; i++)
		latency[i] = at - sent_at[i];
	return *heard / q->reply;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "redis_load HOST PORT FILE OUTSTANDING\n");
		return 2;
	}
	const struct questions *q = mapped(argv[3]);
	uint32_t limit = atoi(argv[4]), next = 0, answered = 0;
	uint32_t *latency = calloc(q->count, sizeof(*latency));
	uint64_t *sent_at = calloc(q->count, sizeof(*sent_at)), heard = 0;
	int fd = connected(argv[1], atoi(argv[2]));
	uint64_t start = read_clock(CLOCK_MONOTONIC), cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);

	if (!latency || !sent_at)
		die("calloc");
	while (answered < q->count) {
		uint32_t left = q->count - next, room = limit - (next - answered), n = left < room ? left : room;
		uint64_t at = read_clock(CLOCK_MONOTONIC);

		for (uint32_t i = 0; i < n; i++)
			sent_at[next + i] = at;
		write_all(fd, q->commands + (size_t)next * q->bytes, (size_t)n * q->bytes);
		next += n;
		answered = hear(fd, q, &heard, sent_at, latency);
	}
	double seconds = (read_clock(CLOCK_MONOTONIC) - start) / 1e9, spent = (read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9;

	qsort(latency, answered, sizeof(*latency), by_value);
	printf("{\"answered\": %u, \"refused\": 0, \"lost\": 0, \"seconds\": %.6f, \"cpu_seconds\": %.6f, "
	       "\"p50_us\": %.1f, \"p99_us\": %.1f}\n",
	       answered, seconds, spent, latency[answered / 2] / 1e3, latency[answered * 99ull / 100] / 1e3);
	return 0;
}
