/** A thread of `pack`: makes one part of a file after the other. The work is in src/format/pack_crew.ts. */
import { servePacker } from "../src/format/pack_crew.ts";

servePacker();
