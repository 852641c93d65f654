/* SPDX-License-Identifier: Apache-2.0 */
/* What every load of the bench's has: clocks, a file of questions made beforehand, an end with a reason. */
#pragma once
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static inline void die(const char *what)
{
	perror(what);
	exit(1);
}

static inline uint64_t read_clock(clockid_t which) /* ns */
{
	struct timespec t;

	clock_gettime(which, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline uint64_t now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

/* A whole file, in memory before the first question is asked. */
static inline const void *mapped(const char *path)
{
	int fd = open(path, O_RDONLY);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	void *at = size < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);

	if (at == MAP_FAILED)
		die(path);
	return at;
}
