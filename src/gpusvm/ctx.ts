/** Arguments of one call; all default to 0, false or null. @kernel drm_gpusvm_ctx */
export interface GpuSvmCtx {
  /** Bytes. Chunks above 4 KiB and up to this are used only where the CPU has every page present. */
  readonly checkPagesThreshold: number;
  /** Minimum residency after a migration, milliseconds; the driver passes it down. */
  readonly timesliceMs: number;
  /** The caller is inside `invalidate`: the notifier lock is held for write. */
  readonly inNotifier: boolean;
  /** The GPU will only read: read-only VMAs are accepted, nothing is faulted for write, DMA is to the device. */
  readonly readOnly: boolean;
  /** New ranges of anonymous memory may migrate. */
  readonly devmemPossible: boolean;
  /** `getPages` fails with -EFAULT at the first system page. */
  readonly devmemOnly: boolean;
  /** `getPages` accepts system pages beside those of one page map. */
  readonly allowMixed: boolean;
  /** Owner of the device pages that may be used where they are; null: all of them go home first. */
  readonly devicePrivatePageOwner: unknown;
}

/** A ctx with the fields given. Every one has the same shape, which the look-up path likes. */
export function gpuSvmCtx(fields: Partial<GpuSvmCtx> = {}): GpuSvmCtx {
  return {
    checkPagesThreshold: fields.checkPagesThreshold ?? 0,
    timesliceMs: fields.timesliceMs ?? 0,
    inNotifier: fields.inNotifier ?? false,
    readOnly: fields.readOnly ?? false,
    devmemPossible: fields.devmemPossible ?? false,
    devmemOnly: fields.devmemOnly ?? false,
    allowMixed: fields.allowMixed ?? false,
    devicePrivatePageOwner: fields.devicePrivatePageOwner ?? null,
  };
}
