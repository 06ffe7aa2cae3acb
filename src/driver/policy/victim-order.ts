import type { VramOwner } from "../bo.ts";
import { SvmBo } from "../svm-bo.ts";
import { evictPolicy } from "./evict.ts";
import type { EvictName, EvictPolicy } from "./policy.ts";

export interface VictimOrderOptions {
  readonly policy: EvictName;
  /** Of what is drawn at random. */
  readonly seed: number;
  /** Whether anything has been advised in an address space of the device. */
  readonly hasAdvice: () => boolean;
}

/**
 * Who leaves VRAM when room is wanted, for SVM or for buffer objects: the evict policy's order, and before it the advice.
 * Memory that had better lie in RAM goes first, memory that was asked for here goes last; buffer objects, about which there is
 * no advice, go with what there is none about.
 */
export class VictimOrder {
  readonly #policy: EvictPolicy;
  readonly #hasAdvice: () => boolean;

  constructor(options: VictimOrderOptions) {
    this.#policy = evictPolicy(options.policy, options.seed);
    this.#hasAdvice = options.hasAdvice;
  }

  get name(): EvictName {
    return this.#policy.name;
  }

  arrived(bo: VramOwner): void {
    this.#policy.arrived(bo);
  }
  used(bo: VramOwner): void {
    this.#policy.used(bo);
  }

  /** The least recently used go first. */
  get isOrderOfUse(): boolean {
    return this.#policy.isOrderOfUse && !this.#hasAdvice();
  }

  /** All of `byUse`, which are in the order of use, as they are to go. */
  order(byUse: readonly VramOwner[]): readonly VramOwner[] {
    const order = this.#policy.order(byUse);
    return this.#hasAdvice() ? [...order].sort((a, b) => rank(a) - rank(b)) : order;
  }

  /** Buffers worth `bytes`. `byUse(limit)`: those that may leave, least recently used first, until they are worth `limit`. */
  pick(bytes: number, byUse: (limit: number) => VramOwner[]): VramOwner[] {
    if (this.isOrderOfUse) return byUse(bytes);
    const order = this.order(byUse(Infinity));
    const victims: VramOwner[] = [];
    let sum = 0;
    for (const bo of order) {
      if (sum >= bytes) break;
      victims.push(bo);
      sum += bo.size;
    }
    return victims;
  }
}

/** Lower ones go first. */
function rank(bo: VramOwner): number {
  if (!(bo instanceof SvmBo)) return 1;
  const { loc } = bo.vm.attributes.at(bo.start);
  return loc === "system" ? 0 : loc === "device" ? 1 : 2;
}
