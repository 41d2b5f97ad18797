// How many files and sockets this process may have open. Node's report is the only source, and it leaves 2 MB of
// garbage, so the process that reads the configuration creates it: that process inherits its limit from the sidecar.

let known: number | undefined;

/** The soft limit of open descriptors (`ulimit -n`), read once; Infinity where there is none. */
export function descriptorLimit(): number {
  if (known !== undefined) return known;
  // Otherwise the report resolves the host names of open connections.
  Object.assign(process.report, { excludeNetwork: true });
  const report = process.report.getReport() as unknown as {
    userLimits?: { open_files?: { soft?: number | string } };
  };
  const soft = Number(report.userLimits?.open_files?.soft);
  known = Number.isFinite(soft) ? soft : Number.POSITIVE_INFINITY;
  return known;
}
