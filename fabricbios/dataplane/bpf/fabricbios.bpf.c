// SPDX-License-Identifier: Apache-2.0
/* The program that interfaces run: dataplane.h and nothing else. */
#include "dataplane.h"

SEC("xdp")
int fabricbios(struct xdp_md *ctx)
{
	return take_frame(ctx);
}

char _license[] SEC("license") = "Apache-2.0";
