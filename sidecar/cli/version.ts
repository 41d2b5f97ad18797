// The version of the package, whether this runs from the source or from the build.

import { readFileSync } from 'node:fs';

/** The version, such as `0.1.0`, from the nearest package.json above. */
export function readVersion(): string {
  for (const place of ['../../package.json', '../../../package.json']) {
    try {
      const manifest: unknown = JSON.parse(readFileSync(new URL(place, import.meta.url), 'utf8'));
      if (typeof manifest === 'object' && manifest !== null && 'version' in manifest) return String(manifest.version);
    } catch {
      // Try the next path.
    }
  }
  return 'unknown';
}
