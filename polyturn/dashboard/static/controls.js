// Pause, resume, checkpoint, stop, limits: what a person asks of a run that is at work.
import { h } from "./dom.js";

export function controls(run, view) {
  return h("div");
}
