// `multipleOf` in exact decimals: a quotient of doubles needs a tolerance, which accepts values that are not multiples.

import { spend } from './budget.ts';

/** Steps for one comparison that takes big integers: about half a microsecond, and more for each digit. */
const stepsForDecimals = 256;
const stepsForDigit = 4;

/** True if `value` is a multiple of `of`, both as the shortest decimal that names the double. */
export function isMultiple(value: number, of: number): boolean {
  if (Number.isSafeInteger(value) && Number.isSafeInteger(of)) return value % of === 0;
  const [digits, exponent] = decimalOf(value);
  const [ofDigits, ofExponent] = decimalOf(of);
  spend(stepsForDecimals + Math.abs(exponent - ofExponent) * stepsForDigit);
  const least = Math.min(exponent, ofExponent);
  return (digits * 10n ** BigInt(exponent - least)) % (ofDigits * 10n ** BigInt(ofExponent - least)) === 0n;
}

/** Digits and a power of ten. */
function decimalOf(value: number): [digits: bigint, exponent: number] {
  const [mantissa = '', exponent = '0'] = String(value).split('e');
  const [whole = '', fraction = ''] = mantissa.split('.');
  return [BigInt(whole + fraction), Number(exponent) - fraction.length];
}
