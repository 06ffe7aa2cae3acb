// The end of a batch of copy jobs: full counts become status ok, fences are signalled in order (spec/device.md 4.4). One
// invocation, because each fence carries the first error before it. Needs ctl.

// {number of jobs, 0, 0, 0}, then per job {status or 0 while pending, parts, engine of the fence + 1 or 0, its seqno}.
@group(1) @binding(0) var<storage, read> entries: array<vec4u>;
// Per job: parts that are done, verdict.
@group(1) @binding(1) var<storage, read> progress: array<vec2u>;
@group(1) @binding(2) var<storage, read_write> outcomes: array<u32>;

@compute @workgroup_size(1)
fn finish() {
  var error = 0u;
  var failed = 0u;
  for (var i = 0u; i < entries[0].x; i++) {
    let job = entries[i + 1u];
    var status = job.x;
    if (status == JOB_PENDING) {
      status = select(E_DEVICE, JOB_OK, progress[i].x == job.y);
      if (progress[i].y != 0u) { status = progress[i].y; }
    }
    outcomes[i] = status;
    if (status != JOB_OK && error == 0u) {
      error = status;
      failed = i;
    }
    if (job.z != 0u) { ctl.engines[job.z - 1u] = EngineEntry(job.w, error, failed, 0u); }
  }
}
