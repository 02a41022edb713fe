/* The least that a handler of first touches has to do to be right: what vmckpt's tracer is measured against.

       handler BLOCK_BYTES        descriptor 3 is a UNIX socket

   receives  four u64: where the guest maps the memory, its bytes, slots, 1 if they are to be in memory beforehand;
             and three descriptors: the memory (a memfd), the userfaultfd, the memfd of the slots
   answers   one byte, "r", when the first trap can come
   then      for each trap: copy the memory block into the next slot, map the block, which wakes the guest

   It knows one guest with one vCPU, no holes, no rules, no log; nobody hears of its copies; it ends by being killed. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { SOCKET = 3, PAGE_BYTES = 4096, DESCRIPTORS = 3 };

struct task {
    uint64_t base, size_bytes, slots, ready;
};

static void fail(const char *what)
{
    fprintf(stderr, "handler: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void receive(struct task *task, int descriptors[DESCRIPTORS])
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
    } control;
    struct iovec bytes = {task, sizeof *task};
    struct msghdr message = {
        .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(SOCKET, &message, 0) != sizeof *task)
        fail("cannot receive the task");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(DESCRIPTORS * sizeof(int)))
        fail("the task came without its descriptors");
    memcpy(descriptors, CMSG_DATA(header), DESCRIPTORS * sizeof(int));
}

static void copy(int memory, uint64_t offset, char *into, uint64_t length)
{
    while (length) {
        ssize_t done = pread(memory, into, length, (off_t)offset);
        if (done <= 0)
            fail("cannot read the memory");
        offset += (uint64_t)done, into += done, length -= (uint64_t)done;
    }
}

static void map(int faults, uint64_t address, uint64_t length)
{
    while (length) {
        struct uffdio_continue range = {.range = {address, length}};
        int64_t done = (int64_t)length;
        if (ioctl(faults, UFFDIO_CONTINUE, &range)) {
            if (range.mapped > 0) {
                done = range.mapped;
            } else if (errno == EEXIST) { /* mapped already: nobody was woken for it */
                struct uffdio_range page = {address, done = PAGE_BYTES};
                if (ioctl(faults, UFFDIO_WAKE, &page))
                    fail("cannot wake the guest");
            } else if (errno == EAGAIN) {
                done = 0;
            } else {
                fail("cannot map the block");
            }
        }
        address += (uint64_t)done, length -= (uint64_t)done;
    }
}

int main(int count, char **arguments)
{
    struct task task;
    int descriptors[DESCRIPTORS];
    uint64_t block_bytes = count == 2 ? strtoull(arguments[1], NULL, 10) : 0;
    if (!block_bytes || block_bytes % PAGE_BYTES) {
        fprintf(stderr, "handler: expected BLOCK_BYTES, whole pages\n");
        return 2;
    }
    receive(&task, descriptors);
    int memory = descriptors[0], faults = descriptors[1];
    uint64_t slots_bytes = task.slots * block_bytes;
    char *slots = mmap(NULL, slots_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptors[2], 0);
    if (slots == MAP_FAILED)
        fail("cannot map the slots");
    if (task.ready && madvise(slots, slots_bytes, MADV_POPULATE_WRITE))
        fail("cannot bring the slots into memory");
    if (fcntl(faults, F_SETFL, 0)) /* a read that waits spares a poll */
        fail("cannot have the userfaultfd wait");
    if (write(SOCKET, "r", 1) != 1)
        fail("cannot answer");
    for (uint64_t slot = 0;; slot++) {
        struct uffd_msg trap;
        if (read(faults, &trap, sizeof trap) != sizeof trap)
            fail("cannot read a trap");
        if (trap.event != UFFD_EVENT_PAGEFAULT || slot == task.slots)
            fail("a trap that was not expected");
        uint64_t offset = (trap.arg.pagefault.address - task.base) / block_bytes * block_bytes;
        uint64_t length = task.size_bytes - offset < block_bytes ? task.size_bytes - offset : block_bytes;
        copy(memory, offset, slots + slot * block_bytes, length);
        map(faults, task.base + offset, length);
    }
}
