/**
 * State bits of ranges and pages objects, with the kernel's values in one word so that a reader without the notifier
 * lock sees all of them at one instant. Such a reader may take them as a hint only.
 * @kernel drm_gpusvm_range_flags, drm_gpusvm_pages_flags, drm_gpusvm_range_flags.__flags
 */

/** Of a range, set once at creation: anonymous memory, and device memory was said to be possible. @kernel drm_gpusvm_range_flags.migrate_devmem, drm_gpusvm_pages_flags.migrate_devmem */
export const MIGRATE_DEVMEM = 1;
/** Of ranges and pages: an UNMAP event hit the range, which is dead. Set under the notifier lock, never cleared. @kernel drm_gpusvm_range_flags.unmapped, drm_gpusvm_pages_flags.unmapped */
export const UNMAPPED = 2;
/** Of a range: an UNMAP event did not cover all of it. Set under the notifier lock, never cleared. @kernel drm_gpusvm_range_flags.partial_unmap, drm_gpusvm_pages_flags.partial_unmap */
export const PARTIAL_UNMAP = 4;
/** Of pages: at least one mapped page is device memory. @kernel drm_gpusvm_range_flags.has_devmem_pages, drm_gpusvm_pages_flags.has_devmem_pages */
export const HAS_DEVMEM_PAGES = 8;
/** Of pages: the address array holds live mappings, of device or system pages. @kernel drm_gpusvm_range_flags.has_dma_mapping, drm_gpusvm_pages_flags.has_dma_mapping */
export const HAS_DMA_MAPPING = 16;
