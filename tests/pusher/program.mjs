/** client.js in a program of Node: commands come as lines of JSON, and so do reports. */

import { createInterface } from "node:readline";
import Echo from "laravel-echo";
import Pusher from "pusher-js";
import "./client.js";

const report = (...values) => console.log(JSON.stringify(values));
const carryOut = run(Pusher.default ?? Pusher, Echo, report);
createInterface(process.stdin).on("line", (line) => carryOut(JSON.parse(line)));
