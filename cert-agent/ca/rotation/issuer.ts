// The steps that replace the issuer. Peers need no change: they verify the new issuer's certificates by the same root.
// A running CA and a command on a stopped one take the same steps.

import { SallyportError } from '../../base/errors.ts';
import { fingerprintOf } from '../../identity/verify.ts';
import { readBundle, readIntermediate } from '../certificates.ts';
import { cancelFiles, prepareFiles, readRootSigner } from './files.ts';
import type { Begin } from './on-record.ts';
import { installFiles, requestFiles } from './request.ts';
import type { RotationState } from './state.ts';

/** `activate` creates a new issuer with the root's key; `request` and `install` get one from an external root. */
export type IssuerStep = 'activate' | 'request' | 'install' | 'cancel';

/** One step, as an operator asks for it. */
export interface IssuerOrder {
  readonly step: IssuerStep;
  /** With `activate`: the file of the root's key, if it is not in the directory. */
  readonly rootKey?: string | undefined;
  /** With `install`: PEM. */
  readonly certificate?: string | undefined;
}

/** How the step is done here: a running CA swaps its issuer, a stopped one only moves files. */
export interface IssuerContext {
  readonly by: RotationState['by'];
  readonly passphrase: string | undefined;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly begin: Begin;
  /** Puts a prepared issuer in place of the old one. */
  readonly activate: (made: RotationState) => RotationState;
}

/**
 * Takes a step, and returns the rotation in progress or the one that it completed; undefined after `cancel`.
 * @throws SallyportError `rotation_refused`, `root_key_missing`, `issuer_unusable` and `key_mismatch`.
 */
export async function takeIssuerStep(
  dir: string,
  { step, rootKey, certificate }: IssuerOrder,
  state: RotationState | undefined,
  { by, passphrase, now, activate, begin }: IssuerContext,
): Promise<RotationState | undefined> {
  const prepared = state?.step === 'prepared' ? state : undefined;
  if (state?.kind === 'root' && step !== 'install') throw rotationRefused(`the root is being rotated (${state.step})`);
  switch (step) {
    case 'activate': {
      if (state?.step === 'requested') throw rotationRefused('a request is waiting for its certificate');
      if (prepared !== undefined) await begin();
      const made = prepared ?? (await prepare());
      return activate(made);
    }
    case 'request': {
      // Its key would be lost while the root's owner signs.
      if (state?.step === 'requested')
        throw rotationRefused(
          'a request is waiting for its certificate',
          'sallyport ca issuer request --show prints it; sallyport ca issuer cancel cancels it',
        );
      const { trustDomain } = readBundle(dir);
      const oldIssuer = readIntermediate(dir).map(fingerprintOf)[0];
      await begin();
      return requestFiles(dir, 'issuer', {
        ...{ trustDomain, passphrase, now },
        ...(oldIssuer === undefined ? {} : { oldIssuer }),
      });
    }
    case 'install': {
      if (state?.step !== 'requested') throw rotationRefused('no request is waiting for a certificate');
      await begin();
      const installed = await installFiles(dir, state, certificate ?? '', { passphrase, now });
      return state.kind === 'issuer' ? activate(installed) : installed;
    }
    case 'cancel':
      if (state === undefined) throw rotationRefused('no rotation of the issuer is under way');
      await begin();
      return void cancelFiles(dir, state);
  }

  async function prepare(): Promise<RotationState> {
    const root = readRootSigner(dir, rootKey, passphrase);
    await begin();
    return prepareFiles(dir, 'issuer', { by, root, passphrase, now });
  }
}

/** A refusal with the command for the rotation in progress. */
export function rotationRefused(message: string, hint = 'sallyport ca rotate status shows what is under way') {
  return new SallyportError('rotation_refused', message, { hint });
}
