// Secrets of a gateway that every user of the machine may read: access is removed if the file is ours, otherwise its
// content is ignored. Only what depends on it stops; the rest is served.

import { asSallyportError, type Problem } from '../../cert-agent/base/errors.ts';
import { guardSecret } from '../../cert-agent/base/secret-file.ts';
import type { GatewayConfig } from './gateway-config.ts';
import type { Settings } from './settings.ts';
import { type Source, secretFilesOf } from './sources.ts';

/**
 * `gateway` without the secrets of files that stay exposed, with a warning for each; and the files that were corrected.
 */
export function withoutExposed(
  gateway: GatewayConfig,
  settings: Settings,
  sources: readonly Source[],
): { readonly gateway: GatewayConfig; readonly closed: ReadonlySet<string> } {
  const { secrets } = gateway.documents;
  const secretFiles = new Set([...secretFilesOf(settings), ...secrets.map((one) => one.file)]);
  const [closed, refused, warnings] = [new Set<string>(), new Set<string>(), [] as Problem[]];
  for (const { file } of sources.filter((one) => secretFiles.has(one.file))) {
    const place = { file, line: 1, column: 1 };
    try {
      const warning = guardSecret(file);
      if (warning !== undefined) warnings.push({ ...place, message: warning });
      closed.add(file);
    } catch (error) {
      const { message, hint } = asSallyportError(error, 'secret_exposed', `cannot use ${file}`);
      warnings.push({ ...place, message, ...(hint === undefined ? {} : { hint }) });
      refused.add(file);
    }
  }
  return { gateway: { ...gateway, ...left(gateway, settings, refused, warnings) }, closed };
}

function left(
  { documents, certificates, sessionKeys }: GatewayConfig,
  { gateway }: Settings,
  refused: ReadonlySet<string>,
  warnings: readonly Problem[],
): Pick<GatewayConfig, 'documents' | 'certificates' | 'sessionKeys'> {
  const isRefused = (file: string | undefined): boolean => file !== undefined && refused.has(file);
  return {
    documents: {
      ...documents,
      secrets: documents.secrets.filter((one) => !isRefused(one.file)),
      warnings: [...documents.warnings, ...warnings],
    },
    certificates: Object.fromEntries(
      Object.entries(certificates).map(([name, pair]) => [
        name,
        isRefused(gateway?.certificates[name]?.key) ? { ...pair, key: '' } : pair,
      ]),
    ),
    sessionKeys: isRefused(gateway?.sessionKeys) ? '' : sessionKeys,
  };
}
