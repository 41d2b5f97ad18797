// The admin port that a settings file names, without the rest of the file: for the commands that ask a running process.

import type { Address } from '../../cert-agent/base/address.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { configError, parseYaml } from '../../cert-agent/base/yaml.ts';
import { adminSchema } from './settings-schema.ts';
import { readText } from './sources.ts';

/** @throws SallyportError `config_unreadable`, or `config_invalid` if `file` names no admin port. */
export function adminIn(file: string): Address {
  const { documents, problems } = parseYaml(readText(file), file);
  const [document] = documents;
  if (document === undefined || problems.length > 0)
    throw configError(problems.length > 0 ? problems : [{ file, line: 1, column: 1, message: 'the file is empty' }]);
  const { data, error } = adminSchema.safeParse((document.value as { readonly admin?: unknown }).admin);
  if (error !== undefined) throw configError([document.problemAt(['admin'], `admin: ${error.issues[0]!.message}`)]);
  if (data === undefined)
    throw new SallyportError('config_invalid', `${file} has no 'admin': its process has no admin port`, {
      hint: "set 'admin: 15000' and restart it",
    });
  return data;
}
