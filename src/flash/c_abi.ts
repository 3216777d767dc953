/** Numbers and texts as the C interfaces of Linux want them, on x86-64 and arm64 alike. */

export const SYS_IO_URING_SETUP = 425, SYS_IO_URING_ENTER = 426, SYS_IO_URING_REGISTER = 427;

/** By processor. */
export const SYS_MADVISE: Record<string, number | undefined> = { x64: 28, arm64: 233 };

/** `madvise`: pages of 2 MiB, please. */
export const MADV_HUGEPAGE = 14;
/** `madvise`: pages that can be written, now. */
export const MADV_POPULATE_WRITE = 23;

/** `mmap`: for reading and writing; shared, with its pages there at once. */
export const PROT_READ_WRITE = 3, MAP_SHARED_POPULATE = 0x8001;

export function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}
