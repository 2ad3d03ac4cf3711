/** The library in a program of Node: commands on standard input, reports on standard output. run.sh has put program.js beside. */

import { createInterface } from "node:readline";
import { Centrifuge } from "centrifuge";
import { WebSocket } from "ws";
import { program } from "./program.js";

const report = (...values) => console.log(JSON.stringify(values));
process.on("unhandledRejection", (error) => report("fault", null, String(error)));
const carryOut = program(Centrifuge, { websocket: WebSocket }, report);
for await (const line of createInterface({ input: process.stdin })) carryOut(JSON.parse(line));
process.exit();
