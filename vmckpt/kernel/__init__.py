"""What vmckpt asks of the Linux kernel: the only room with ctypes, ioctl and /proc (docs/kernel.md).

    faults        values, and the protocol of who reads and answers a guest's faults; nothing of Linux in it
    userfaultfd   the kernel's answer to that protocol: open, register, read events, fill pages
    features      whether this process can have it, and what it can do
    uffdio        its raw side: structures, numbers, feature bits, messages
    memory        memfds, mappings, advice, the addresses of buffers
    pagemap       which pages of a process are present, written, zero
    process       names, deaths and peers of processes; descriptors sent from one to another
    libzstd       decompression into memory that is there already, where the system has that library
    ioctl, libc   request numbers from their parts; the one door to the C library

`trace/`, `machine/` and the fault engine of `restore/` call it; it calls the ground alone. A part that the kernel lacks
shows as FeatureError with the reason, from a probe of the feature itself, never of the kernel's version.
"""

__all__: list[str] = []
