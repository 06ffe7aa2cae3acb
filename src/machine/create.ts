import { ConfigError } from "../base/errors.ts";
import { type EngineName, type EngineOptions, prepareEngine } from "./engine.ts";
import { type DeviceOptions, type Engine, Machine, type MachineOptions } from "./machine.ts";

export interface CreateMachineOptions extends Omit<MachineOptions, "engine">, EngineOptions {
  /**
   * `"webgpu"`, the default; `"reference"`, the plain engine; or one that `prepareEngine` made, which stays the caller's unless
   * `ownsEngine` is true.
   */
  engine?: EngineName | Engine;
  /** Default: one with the default options. */
  devices?: readonly DeviceOptions[];
}

/**
 * A machine with its devices, ready for use. `machine.close()` gives back what it has taken.
 *
 *     const machine = await createMachine({ ram: 512 << 20, devices: [{ vram: 64 << 20 }] });
 *     const process = machine.createProcess();
 *     const vm = machine.devices[0].vm(process);
 *
 * Rejects with ConfigError for an option that cannot be, UnsupportedError without WebGPU, and GpuError when not even the least
 * VRAM can be had; a device gets less than it asked for where the adapter has no more (`device.driver.heapBytes`).
 */
export async function createMachine(options: CreateMachineOptions = {}): Promise<Machine> {
  const { engine = "webgpu", devices = [{}] } = options;
  if (!Array.isArray(devices)) throw new ConfigError("machine.devices", "a list of options of devices is wanted");
  const ownsEngine = typeof engine === "string" || options.ownsEngine === true;
  const prepared = typeof engine === "string" ? await prepareEngine(engine, options) : engine;
  let machine: Machine | null = null;
  try {
    machine = new Machine({ ...options, engine: prepared, ownsEngine });
    await openDevices(machine, devices);
    return machine;
  } catch (error) {
    if (machine !== null) await machine.close();
    else if (ownsEngine) prepared.destroy();
    throw error;
  }
}

/** Devices that reach each other's memory are made in one go, because the first use of one closes their card. */
async function openDevices(machine: Machine, devices: readonly DeviceOptions[]): Promise<void> {
  const peers = devices.some((options) => options.p2p === true);
  for (const options of devices) {
    if (peers) machine.createDevice(options);
    else await machine.openDevice(options);
  }
  if (peers) for (const device of machine.devices) await device.gpu.idle();
}
