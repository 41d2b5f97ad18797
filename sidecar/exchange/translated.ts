// The other path of a request that goes on in another protocol. Policies evaluate what the client sent; a Deny rule that
// names what the backend would get counts as well, or the translation would be a way around it.

import { Slot } from './exchange.ts';

/** The path of the call that a request stands for: `/shop.v1.Orders/Get`. Its method is POST. */
export const translatedPath = new Slot<string>();
