/** The predictor: looks ahead, owns the neuron cache and the read plan. The loop is in src/predict/predictor_loop.ts. */
import type { PipelineOptions } from "../src/pipeline/options.ts";
import { serveWorker } from "../src/pipeline/worker_shell.ts";
import { PredictorLoop } from "../src/predict/predictor_loop.ts";

serveWorker((options: PipelineOptions) => new PredictorLoop(options));
