import { openDisk, readFully } from "./disk.ts";
import type { FlashDisk } from "./disk.ts";
import type { Reader, ReaderOptions } from "./reader_options.ts";
import { ReaderSeat } from "./reader_seat.ts";
import { emptyTicket } from "./ticket.ts";

/** The portable backend: one `pread` in flight, so there are many such readers. */
export class PreadReader implements Reader {
  readonly #seat: ReaderSeat;
  readonly #options: ReaderOptions;
  readonly #disk: FlashDisk;

  constructor(options: ReaderOptions) {
    this.#seat = new ReaderSeat(options);
    this.#options = options;
    this.#disk = openDisk(options.disk);
  }

  run(): void {
    const seat = this.#seat, ticket = emptyTicket();
    const { bounce, disk } = this.#options;
    try {
      for (;;) {
        seat.listen();
        while (seat.take(ticket)) {
          const { arena, target } = ticket;
          const address = target === 0 ? bounce.addresses[arena] : target;
          const view = seat.arenas[arena].subarray(address, address + ticket.byteLength);
          seat.begin(ticket, seat.clock());
          readFully(this.#disk, disk.path, view, ticket.byteOffset);
          seat.finish(ticket, address, seat.clock());
          seat.announce(1);
          seat.checkRunning();
        }
        seat.sleep();
      }
    } finally {
      this.#disk.close();
    }
  }
}
