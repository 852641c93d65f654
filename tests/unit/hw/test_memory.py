"""Memory totals, nodes, hugepages and the limit of a container."""

from fabricbios.hw import memory

MEMINFO = "MemTotal:       16000 kB\nMemFree:  1000 kB\nMemAvailable:    9000 kB\nSwapTotal: 0 kB\nHugePages_Total: 3\n"


def test_totals_in_bytes(tree):
    tree.put("/proc/meminfo", MEMINFO)
    found = memory.detect(tree.fs)
    assert (found.total, found.available, found.swap_total) == (16_000 * 1024, 9_000 * 1024, 0)


def test_an_old_kernel_without_memavailable_gives_what_is_free(tree):
    tree.put("/proc/meminfo", "MemTotal: 16 kB\nMemFree: 4 kB\n")
    assert memory.detect(tree.fs).available == 4096


def test_nodes_and_distances(tree):
    for node in (0, 1):
        at = f"{memory.NODE}/node{node}"
        tree.fill(at, meminfo=f"Node {node} MemTotal: 8 kB\nNode {node} MemFree: 2 kB", distance="10 21")
        tree.fill(f"{at}/hugepages/hugepages-2048kB", nr_hugepages=4, free_hugepages=3)
    found = memory.detect(tree.fs).nodes
    assert [n.node for n in found] == [0, 1]
    assert found[1] == memory.MemoryNode(1, 8192, 2048, (10, 21), (memory.HugePool(2 << 20, 4, 3, 0),))


def test_hugepage_pools_smallest_first(tree):
    tree.fill(f"{memory.HUGEPAGES}/hugepages-1048576kB", nr_hugepages=1, free_hugepages=1, resv_hugepages=0)
    tree.fill(f"{memory.HUGEPAGES}/hugepages-2048kB", nr_hugepages=512, free_hugepages=500, resv_hugepages=12)
    assert memory.hugepages(tree.fs) == (memory.HugePool(2 << 20, 512, 500, 12), memory.HugePool(1 << 30, 1, 1, 0))


def test_the_tightest_control_group_counts(tree):
    tree.put("/proc/self/cgroup", "0::/a/b\n")
    tree.put("/sys/fs/cgroup/a/memory.max", "1000000\n")
    tree.put("/sys/fs/cgroup/a/b/memory.max", "max\n")
    assert memory.detect(tree.fs).limit == 1_000_000


def test_a_group_outside_our_namespace_tells_nothing(tree):
    tree.put("/proc/self/cgroup", "0::/../secret\n")
    tree.put("/sys/fs/cgroup/memory.max", "5\n")
    assert memory.detect(tree.fs).limit is None


def test_nothing_at_all(tree):
    assert memory.detect(tree.fs) == memory.Memory("memory", None, None, None, None, (), ())
