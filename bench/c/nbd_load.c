// SPDX-License-Identifier: Apache-2.0
/* The NBD side of the block bench: random reads or writes, so many outstanding on one connection.
 *
 * nbd_load PORT EXPORT read|write BYTES COUNT OUTSTANDING
 *
 * Fixed newstyle handshake and simple replies, as doc/proto.md of the NBD project has them. Requests are sent
 * as many at once as answers came in at once. Prints one JSON object. */
#include <arpa/inet.h>
#include <endian.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "measure.h"

enum { MOST_OUTSTANDING = 256, MOST_BYTES = 65536, REPLY = 16, CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2 };
enum { NO_ZEROES = 2, FIXED_NEWSTYLE = 1, OPT_EXPORT_NAME = 1 };

struct request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t handle, from;
	uint32_t length;
} __attribute__((packed));

static void send_all(int fd, const void *data, size_t n)
{
	for (ssize_t done; n; data = (const char *)data + done, n -= done)
		if ((done = write(fd, data, n)) <= 0)
			die("write");
}

static void receive_all(int fd, void *data, size_t n)
{
	for (ssize_t done; n; data = (char *)data + done, n -= done)
		if ((done = read(fd, data, n)) <= 0)
			die("read");
}

/* Shake hands; return the export's size. */
static uint64_t enter(int fd, const char *export)
{
	struct { uint64_t magic, option; uint16_t flags; } __attribute__((packed)) hello;
	struct { uint32_t flags; uint64_t magic; uint32_t option, length; } __attribute__((packed)) answer = {
		htobe32(FIXED_NEWSTYLE | NO_ZEROES), htobe64(0x49484156454F5054ull), htobe32(OPT_EXPORT_NAME),
		htobe32(strlen(export)),
	};
	struct { uint64_t size; uint16_t flags; } __attribute__((packed)) told;

	receive_all(fd, &hello, sizeof(hello));
	send_all(fd, &answer, sizeof(answer));
	send_all(fd, export, strlen(export));
	receive_all(fd, &told, sizeof(told));
	return be64toh(told.size);
}

static char out[MOST_OUTSTANDING * (sizeof(struct request) + MOST_BYTES)];
static char in[MOST_OUTSTANDING * (REPLY + MOST_BYTES)];
static uint64_t sent_at[MOST_OUTSTANDING];

/* Ask `n` questions whose numbers are in `handles`. */
static void ask(int fd, const uint32_t *handles, uint32_t n, int type, uint32_t bytes, uint64_t blocks)
{
	char *at = out;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t from = (uint64_t)rand() % blocks * bytes;
		struct request q = { htobe32(0x25609513), 0, htobe16(type), handles[i], htobe64(from), htobe32(bytes) };

		memcpy(at, &q, sizeof(q));
		at += sizeof(q) + (type == CMD_WRITE ? bytes : 0);
		sent_at[handles[i]] = now();
	}
	send_all(fd, out, at - out);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Take the whole answers that are there; return how many, their numbers in `handles`. */
static uint32_t hear(int fd, size_t *held, size_t answer, uint32_t *handles, uint32_t *latency)
{
	ssize_t got = read(fd, in + *held, sizeof(in) - *held);
	uint32_t n = 0;

	if (got <= 0)
		die("read");
	*held += got;
	for (; *held - n * answer >= answer; n++) {
		uint64_t handle;
		uint32_t error;

		memcpy(&error, in + n * answer + 4, sizeof(error));
		memcpy(&handle, in + n * answer + 8, sizeof(handle));
		if (error) {
			fprintf(stderr, "NBD error %u\n", be32toh(error));
			exit(1);
		}
		handles[n] = handle;
		latency[n] = now() - sent_at[handle];
	}
	memmove(in, in + n * answer, *held - n * answer);
	*held -= n * answer;
	return n;
}

int main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "nbd_load PORT EXPORT read|write BYTES COUNT OUTSTANDING\n");
		return 2;
	}
	int type = strcmp(argv[3], "write") ? CMD_READ : CMD_WRITE, fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	uint32_t bytes = atoi(argv[4]), count = atoi(argv[5]), outstanding = atoi(argv[6]), done = 0, asked = 0;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	uint32_t handles[MOST_OUTSTANDING], *latency = calloc(count + MOST_OUTSTANDING, sizeof(*latency));
	size_t held = 0;

	if (bytes > MOST_BYTES || outstanding > MOST_OUTSTANDING || !latency || connect(fd, (void *)&to, sizeof(to)))
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	uint64_t blocks = enter(fd, argv[2]) / bytes, start = now();

	for (uint32_t i = 0; i < outstanding; i++)
		handles[i] = i;
	for (uint32_t free = outstanding; done < count;) {
		uint32_t wanted = free < count - asked ? free : count - asked;

		if (wanted)
			ask(fd, handles, wanted, type, bytes, blocks);
		asked += wanted;
		free = hear(fd, &held, REPLY + (type == CMD_READ ? bytes : 0), handles, latency + done);
		done += free;
	}
	double seconds = (now() - start) / 1e9;
	struct request bye = { .magic = htobe32(0x25609513), .type = htobe16(CMD_DISC) };

	send_all(fd, &bye, sizeof(bye));
	qsort(latency, done, sizeof(*latency), by_value);
	printf("{\"answered\": %u, \"refused\": 0, \"lost\": 0, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
	       done, seconds, latency[done / 2] / 1e3, latency[done / 100 * 99] / 1e3);
	return 0;
}
