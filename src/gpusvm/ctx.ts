/** Arguments of one call; all default to 0, false or null. @kernel drm_gpusvm_ctx */
export interface GpuSvmCtx {
  /** Bytes. Chunks above 4 KiB and up to this are used only where the CPU has every page present. @kernel drm_gpusvm_ctx.check_pages_threshold */
  readonly checkPagesThreshold: number;
  /** Minimum residency after a migration, milliseconds; the driver passes it down. @kernel drm_gpusvm_ctx.timeslice_ms */
  readonly timesliceMs: number;
  /** The caller is inside `invalidate`: the notifier lock is held for write. @kernel drm_gpusvm_ctx.in_notifier */
  readonly inNotifier: boolean;
  /** The GPU will only read: read-only VMAs are accepted, nothing is faulted for write, DMA is to the device. @kernel drm_gpusvm_ctx.read_only */
  readonly readOnly: boolean;
  /** New ranges of anonymous memory may migrate. @kernel drm_gpusvm_ctx.devmem_possible */
  readonly devmemPossible: boolean;
  /** `getPages` fails with -EFAULT at the first system page. @kernel drm_gpusvm_ctx.devmem_only */
  readonly devmemOnly: boolean;
  /** `getPages` accepts system pages beside those of one page map. @kernel drm_gpusvm_ctx.allow_mixed */
  readonly allowMixed: boolean;
  /**
   * Owner of the device pages that may be used where they are; null: that of the gpusvm, and without one all of them go
   * home first. @kernel drm_gpusvm_ctx.device_private_page_owner
   */
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
