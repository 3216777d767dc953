/** A thread of `calibrate`: does one task after the other. The tasks are in src/fit/fit_tasks.ts. */
import { serveFitter } from "../src/fit/fit_crew.ts";

serveFitter();
