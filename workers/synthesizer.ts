/** A thread of `synth`: makes pieces of a model. The tasks are in src/synth/synth_tasks.ts. */
import { serveSynthesizer } from "../src/synth/synth_crew.ts";

serveSynthesizer();
