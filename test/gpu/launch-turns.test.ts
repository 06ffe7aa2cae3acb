import { describeLaunchTurns } from "../launch-turns-behaviour.ts";
import { testEngine } from "./support.ts";

describeLaunchTurns(testEngine);
