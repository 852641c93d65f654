// SPDX-License-Identifier: Apache-2.0
/* The bench's load: asks questions that were made beforehand and keeps so many of them outstanding.
 *
 * load HOST PORT FILE OUTSTANDING [DIALECT [SECONDS]]
 *
 * FILE is u32 count, u32 bytes (native), then count datagrams of that size, whose nonces (bytes 32-39, as in
 * FBMU and FBBU) are 1 .. count in this order: what comes back says by its nonce which question it answers.
 * DIALECT "memcached": they are questions of its UDP protocol, whose request ids (bytes 0-1) are the low half of that
 * number; "fbmu" is what there is without it. Each is sent once. What was not answered within TIMEOUT_US counts as lost.
 * SECONDS: stop asking after these, and expect losses: wait IMPATIENT_US for an answer. Prints one JSON object. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

enum { BATCH = 64, ROOM = 2048, NONCE_AT = 32, STATUS_AT = 56, TIMEOUT_US = 900000, IMPATIENT_US = 5000, TRAIN_BYTES = 65000 };

struct questions {
	uint32_t count, bytes;
	char datagrams[];
};

struct tally {
	uint64_t answered, refused, lost;
	uint32_t *latency; /* ns, one an answer */
};

static int connected(const char *host, int port, int patience_us)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int is_v4 = inet_pton(AF_INET, host, &v4.sin_addr), size = 4 << 20;
	int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
	struct timeval timeout = { .tv_usec = patience_us };

	if (!is_v4 && inet_pton(AF_INET6, host, &v6.sin6_addr) != 1)
		die(host);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (connect(fd, is_v4 ? (void *)&v4 : (void *)&v6, is_v4 ? sizeof(v4) : sizeof(v6)))
		die("connect");
	return fd;
}

/* Which question an answer answers, 0 .. count - 1; `next` were sent. */
static uint64_t which_of(const char *answer, int memcached, uint32_t next)
{
	uint64_t nonce;
	uint16_t id;

	memcpy(&nonce, answer + NONCE_AT, sizeof(nonce));
	memcpy(&id, answer, sizeof(id));
	return memcached ? next - (uint16_t)(next - (be16toh(id) - 1)) : be64toh(nonce) - 1;
}

/*
 * Send up to `wanted` questions from number `next` on; return how many. They lie behind each other and leave as one
 * train (UDP_SEGMENT), which costs this process the least, whoever is asked.
 */
static uint32_t ask(int fd, const struct questions *q, uint32_t next, uint32_t wanted, uint64_t *sent_at)
{
	uint32_t left = q->count - next, fits = TRAIN_BYTES / q->bytes, n = wanted < left ? wanted : left;
	uint64_t at = now();

	n = n < fits ? n : fits;
	n = n < BATCH ? n : BATCH;
	for (uint32_t i = 0; i < n; i++)
		sent_at[next + i] = at;
	if (n)
		send(fd, q->datagrams + (size_t)next * q->bytes, (size_t)n * q->bytes, 0);
	return n;
}

/* Take what answers are there, at least one unless time runs out; return how many, 0 after a time-out. */
static int hear(int fd, struct tally *t, const struct questions *q, uint64_t *sent_at, int memcached, uint32_t next)
{
	static char room[BATCH][ROOM];
	static struct iovec piece[BATCH];
	static struct mmsghdr message[BATCH];
	int counted = 0;

	for (int i = 0; i < BATCH; i++) {
		piece[i] = (struct iovec){ room[i], ROOM };
		message[i].msg_hdr = (struct msghdr){ .msg_iov = &piece[i], .msg_iovlen = 1 };
	}
	int n = recvmmsg(fd, message, BATCH, MSG_WAITFORONE, NULL);
	uint64_t at = now();

	for (int i = 0; i < n; i++) {
		uint64_t which = which_of(room[i], memcached, next);
		if (which >= q->count || !sent_at[which])
			continue;
		t->latency[t->answered++] = at - sent_at[which];
		t->refused += !memcached && message[i].msg_len > STATUS_AT && room[i][STATUS_AT];
		sent_at[which] = 0;
		counted++;
	}
	return n > 0 ? counted : 0;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void report(struct tally *t, double seconds, double cpu)
{
	qsort(t->latency, t->answered, sizeof(*t->latency), by_value);
	double p50 = t->answered ? t->latency[t->answered / 2] / 1e3 : 0;
	double p99 = t->answered ? t->latency[t->answered * 99 / 100] / 1e3 : 0;

	printf("{\"answered\": %lu, \"refused\": %lu, \"lost\": %lu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, "
	       "\"p50_us\": %.1f, \"p99_us\": %.1f}\n",
	       t->answered, t->refused, t->lost, seconds, cpu, p50, p99);
}

int main(int argc, char **argv)
{
	int memcached = argc > 5 && !strcmp(argv[5], "memcached");
	double seconds = argc > 6 ? atof(argv[6]) : 1e9;

	if (argc < 5 || argc > 7) {
		fprintf(stderr, "load HOST PORT FILE OUTSTANDING [DIALECT [SECONDS]]\n");
		return 2;
	}
	const struct questions *q = mapped(argv[3]);
	int segment = q->bytes;
	uint32_t limit = atoi(argv[4]), outstanding = 0, next = 0;
	struct tally t = { .latency = calloc(q->count, sizeof(*t.latency)) };
	uint64_t *sent_at = calloc(q->count, sizeof(*sent_at));
	int fd = connected(argv[1], atoi(argv[2]), argc > 6 ? IMPATIENT_US : TIMEOUT_US);

	if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)))
		die("UDP_SEGMENT");
	uint64_t start = now(), cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);

	if (!sent_at || !t.latency)
		die("calloc");
	for (;;) {
		int asks = next < q->count && now() - start < seconds * 1e9;
		uint32_t asked = asks ? ask(fd, q, next, limit - outstanding, sent_at) : 0;

		if (!asks && !outstanding)
			break;
		next += asked;
		outstanding += asked;
		int heard = hear(fd, &t, q, sent_at, memcached, next);
		if (!heard && errno == EAGAIN) {
			t.lost += outstanding;
			outstanding = 0;
		}
		outstanding -= (uint32_t)heard < outstanding ? (uint32_t)heard : outstanding;
	}
	report(&t, (now() - start) / 1e9, (read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9);
	return 0;
}
