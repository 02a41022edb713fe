/* The least that a lazy restore's handler has to do to be right: what vmckpt's is measured against.

       fault_cost BLOCK_BYTES        descriptor 3 is a UNIX socket

   receives  two u64: where the guest maps the memory, and its bytes; and two descriptors: the content (a memfd, not
             compressed, in page order), the userfaultfd
   answers   one byte, "r", when the first fault can come
   then      for each fault: copy the block that the page lies in, which wakes the guest

   It knows one guest with one vCPU, has all content in memory, proves nothing, logs nothing; it ends by being killed. */

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

enum { SOCKET = 3, PAGE_BYTES = 4096, DESCRIPTORS = 2 };

struct task {
    uint64_t base, size_bytes;
};

static void fail(const char *what)
{
    fprintf(stderr, "fault_cost: %s: %s\n", what, strerror(errno));
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

static void bring(int faults, uint64_t address, const char *content, uint64_t length)
{
    while (length) {
        struct uffdio_copy range = {.dst = address, .src = (uintptr_t)content, .len = length};
        int64_t done = (int64_t)length;
        if (ioctl(faults, UFFDIO_COPY, &range)) {
            if (range.copy > 0) {
                done = range.copy;
            } else if (errno == EEXIST) { /* there already: nobody was woken for it */
                struct uffdio_range page = {address, done = PAGE_BYTES};
                if (ioctl(faults, UFFDIO_WAKE, &page))
                    fail("cannot wake the guest");
            } else if (errno == EAGAIN) {
                done = 0;
            } else {
                fail("cannot bring the block");
            }
        }
        address += (uint64_t)done, content += done, length -= (uint64_t)done;
    }
}

int main(int count, char **arguments)
{
    struct task task;
    int descriptors[DESCRIPTORS];
    uint64_t block_bytes = count == 2 ? strtoull(arguments[1], NULL, 10) : 0;
    if (!block_bytes || block_bytes % PAGE_BYTES) {
        fprintf(stderr, "fault_cost: expected BLOCK_BYTES, whole pages\n");
        return 2;
    }
    receive(&task, descriptors);
    int faults = descriptors[1];
    const char *content =
        mmap(NULL, task.size_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, descriptors[0], 0);
    if (content == MAP_FAILED)
        fail("cannot map the content");
    if (fcntl(faults, F_SETFL, 0)) /* a read that waits spares a poll */
        fail("cannot have the userfaultfd wait");
    if (write(SOCKET, "r", 1) != 1)
        fail("cannot answer");
    for (;;) {
        struct uffd_msg fault;
        if (read(faults, &fault, sizeof fault) != sizeof fault)
            fail("cannot read a fault");
        if (fault.event != UFFD_EVENT_PAGEFAULT)
            fail("an event that was not expected");
        uint64_t offset = (fault.arg.pagefault.address - task.base) / block_bytes * block_bytes;
        uint64_t length = task.size_bytes - offset < block_bytes ? task.size_bytes - offset : block_bytes;
        bring(faults, task.base + offset, content + offset, length);
    }
}
