// SPDX-License-Identifier: Apache-2.0
/* The bench's yardstick: a bare UDP echo, recvmmsg and sendmmsg, no authentication, no logic.
 * echo PORT [ADDRESS]: binds it (0 picks a port, 127.0.0.1 is the address), prints the port, echoes until killed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { BATCH = 64, ROOM = 2048 };

static char room[BATCH][ROOM];
static struct sockaddr_in from[BATCH];
static struct iovec piece[BATCH];
static struct mmsghdr message[BATCH];

static int bound(int port, const char *address)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(address) };
	socklen_t length = sizeof(at);
	int size = 4 << 20, fd = socket(AF_INET, SOCK_DGRAM, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || getsockname(fd, (struct sockaddr *)&at, &length)) {
		perror("echo");
		exit(1);
	}
	printf("%d\n", ntohs(at.sin_port));
	fflush(stdout);
	return fd;
}

int main(int argc, char **argv)
{
	int fd = bound(argc > 1 ? atoi(argv[1]) : 0, argc > 2 ? argv[2] : "127.0.0.1");

	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			piece[i] = (struct iovec){ room[i], ROOM };
			message[i].msg_hdr = (struct msghdr){ .msg_name = &from[i], .msg_namelen = sizeof(from[i]), .msg_iov = &piece[i], .msg_iovlen = 1 };
		}
		int n = recvmmsg(fd, message, BATCH, MSG_WAITFORONE, NULL);

		for (int i = 0; i < n; i++)
			piece[i].iov_len = message[i].msg_len;
		for (int sent = 0; sent < n;) {
			int more = sendmmsg(fd, message + sent, n - sent, 0);
			sent += more > 0 ? more : 1;
		}
	}
}
