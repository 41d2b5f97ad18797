// What the log says of names that a certificate lost. Each is said when it happens, and the issuer's constraints once.

import type { Log } from '../../base/log.ts';

/** Names that are missing in a new certificate. */
export interface MissingNames {
  readonly id: string;
  /** They were in its evidence, and are not allowed any more. */
  readonly leftOut: readonly string[];
  /** The name constraints of an issuer forbid them. */
  readonly forbidden: readonly string[];
}

/** Called once for each certificate that lacks names. */
export type NoteMissing = (missing: MissingNames) => void;

/** One for each CA: the issuer's constraints are said once. */
export function createNameLog(log: Log): NoteMissing {
  let told = false;
  return function noteMissing({ id, leftOut, forbidden }) {
    const gone = leftOut.filter((name) => !forbidden.includes(name));
    if (gone.length > 0)
      log.warn(
        { code: 'dns_names_left_out', id, names: gone },
        `the new certificate of ${id} is without ${gone.join(', ')}: not allowed any more (sallyport ca dns ls)`,
      );
    if (forbidden.length === 0 || told) return;
    told = true;
    log.warn(
      { code: 'dns_names_forbidden', id, names: forbidden },
      `the certificate of ${id} is without ${forbidden.join(', ')}, and others may be too: the name constraints of the CA's issuer forbid them`,
    );
  };
}
