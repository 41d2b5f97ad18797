// How many files and sockets this process may have open. The report that tells is 2 MB of garbage, so the process that reads
// the configuration asks: its limit is that of the sidecar that started it.

let known: number | undefined;

/** The soft limit of open descriptors (`ulimit -n`), asked once; Infinity where there is none. */
export function descriptorLimit(): number {
  if (known !== undefined) return known;
  // The report looks up names of open connections otherwise.
  Object.assign(process.report, { excludeNetwork: true });
  const report = process.report.getReport() as unknown as {
    userLimits?: { open_files?: { soft?: number | string } };
  };
  const soft = Number(report.userLimits?.open_files?.soft);
  known = Number.isFinite(soft) ? soft : Number.POSITIVE_INFINITY;
  return known;
}
