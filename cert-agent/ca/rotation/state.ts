// The rotation in progress: the file `rotation.json` in the CA's directory.

import { existsSync, readFileSync } from 'node:fs';
import { z } from 'zod';
import { SallyportError } from '../../base/errors.ts';
import { writeFileDurably } from '../../base/write.ts';
import { rotationFilesOf } from '../directory.ts';

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const stateSchema = z.strictObject({
  kind: z.enum(['issuer', 'root']),
  /**
   * `requested`: the new key exists, and its certificate is to come from elsewhere (request.ts). `prepared`: the new
   * key and its certificate exist. `distributed`: the bundle has the new root. `activating`: files are being moved.
   * `draining`: the new root's issuer signs, and certificates of the old root are still valid. `removing`: the old root
   * goes. The rotation of an issuer ends with its activation: peers verify what it signed by the same root.
   */
  step: z.enum(['requested', 'prepared', 'distributed', 'activating', 'draining', 'removing']),
  /** Milliseconds since 1970. */
  startedAt: z.number(),
  activatedAt: z.number().optional(),
  by: z.enum(['operator', 'schedule']),
  /** Undefined while it is requested. */
  newIssuer: sha256.optional(),
  /** Undefined for a new CA, whose first issuer is requested. */
  oldIssuer: sha256.optional(),
  /** The new root's key is kept elsewhere. */
  external: z.boolean().optional(),
  /** While it is requested: a new CA has no certificate yet that shows it. */
  trustDomain: z.string().optional(),
  newRoot: sha256.optional(),
  oldRoot: sha256.optional(),
});

/** A rotation under way. */
export type RotationState = Readonly<z.output<typeof stateSchema>>;
/** Only one of the two is in progress at a time. */
export type RotationKind = RotationState['kind'];

/** @throws SallyportError `config_unreadable` for a state that cannot be read: guessing could lose a key. */
export function readState(dir: string): RotationState | undefined {
  const { state } = rotationFilesOf(dir);
  if (!existsSync(state)) return undefined;
  try {
    return stateSchema.parse(JSON.parse(readFileSync(state, 'utf8')));
  } catch {
    throw new SallyportError('config_unreadable', `${state} cannot be read`, {
      hint: 'restore it from a backup; it says which keys are in use',
    });
  }
}

/** On disk when it returns: each step of a rotation is written before it is taken. */
export function writeState(dir: string, state: RotationState): void {
  writeFileDurably(rotationFilesOf(dir).state, `${JSON.stringify(state, null, 2)}\n`);
}
