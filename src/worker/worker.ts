/** The worker's entry: the machine and its device live here, the page only looks on. */
import { expose } from "comlink";
import { MachineJobs } from "./jobs.ts";
import { Workbench } from "./workbench.ts";

expose(new Workbench(new MachineJobs()));
