/**
 * Deliberate deviations from the kernel (spec/gpuvm.md 2.9). All on in the product; each can be switched off to compare
 * with recorded behaviour.
 */
export interface Hardening {
  /** H1: requests and insertions of range 0 are -EINVAL. The kernel accepts them and may insert an empty mapping. */
  readonly rejectEmptyRange: boolean;
  /** H2: a prefetch whose end overflows is -EINVAL. The kernel gives an empty list. */
  readonly rejectPrefetchOverflow: boolean;
  /** H3: creation fails on a window or reserved range that overflows, or a reserved range outside the window. */
  readonly checkWindow: boolean;
  /** H4: double insert, remove and link, and a second op set before the first is applied, are broken invariants. */
  readonly checkUse: boolean;
  /** H5: the helpers `map` and `remap` report a failed insertion. The kernel drops the error. */
  readonly reportInsertErrors: boolean;
  /** H6: prefetch skips the kernel-reserved node. */
  readonly prefetchSkipsKernelNode: boolean;
}

export const HARDENED: Hardening = {
  rejectEmptyRange: true,
  rejectPrefetchOverflow: true,
  checkWindow: true,
  checkUse: true,
  reportInsertErrors: true,
  prefetchSkipsKernelNode: true,
};

/** What the kernel does, for conformance runs. */
export const REFERENCE_BEHAVIOUR: Hardening = {
  rejectEmptyRange: false,
  rejectPrefetchOverflow: false,
  checkWindow: false,
  checkUse: false,
  reportInsertErrors: false,
  prefetchSkipsKernelNode: false,
};
