export { JanusError } from "./error.js";
export { Janus } from "./janus.js";
