/** For `<script>`: the class as the global `Janus`, and the errors as `Janus.JanusError`. */
import { Janus, JanusError } from "./index.js";

globalThis.Janus = Object.assign(Janus, { JanusError });
