// SPDX-License-Identifier: Apache-2.0
/* The bench's attacker: sends the questions of FILE (as load.c has them) over and over, as fast as it can, and hears
 * nothing. flood HOST PORT FILE SECONDS; prints {"sent": n, "seconds": s}. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64 };

struct questions {
	uint32_t count, bytes;
	char datagrams[];
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "flood HOST PORT FILE SECONDS\n");
		return 2;
	}
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])), .sin_addr.s_addr = inet_addr(argv[1]) };
	int file = open(argv[3], O_RDONLY), fd = socket(AF_INET, SOCK_DGRAM, 0);
	off_t size = file < 0 ? -1 : lseek(file, 0, SEEK_END);
	const struct questions *q = size < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);

	if (q == MAP_FAILED || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
		perror("flood");
		return 1;
	}
	struct iovec piece[BATCH];
	struct mmsghdr message[BATCH] = { 0 };
	double start = now(), end = start + atof(argv[4]);
	uint64_t sent = 0;

	for (; now() < end;) {
		for (int i = 0; i < BATCH; i++) {
			piece[i] = (struct iovec){ (char *)q->datagrams + (sent + i) % q->count * q->bytes, q->bytes };
			message[i].msg_hdr = (struct msghdr){ .msg_iov = &piece[i], .msg_iovlen = 1 };
		}
		int more = sendmmsg(fd, message, BATCH, 0);
		sent += more > 0 ? more : 0;
	}
	printf("{\"sent\": %lu, \"seconds\": %.6f}\n", sent, now() - start);
	return 0;
}
