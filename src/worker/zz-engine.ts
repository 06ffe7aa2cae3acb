import { REFERENCE_ENGINE } from "../machine/engine.ts"; export const prepareEngine = async (_: string) => REFERENCE_ENGINE;
