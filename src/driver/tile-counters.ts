/** What one tile of a device has done since the device was made. */
export class TileCounters {
  /** Dispatches of kernels. */
  rounds = 0;
  /** Faults of its queue that were served, or could not be; those of one page and round count once. */
  faults = 0;
  tlbInvalidations = 0;
}
