/** Names and numbers nobody can guess. `randomUUID` is missing on plain http in a local network, `getRandomValues` is not. */

/** @returns {string} 24 characters; ids made later sort later, so that equal times still have an order */
export function newId() {
  const random = crypto.getRandomValues(new Uint8Array(8));
  const time = Date.now().toString(36).padStart(8, '0');
  return time + [...random].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** @returns {string} 32 characters that open a running reply; nothing in them tells when it began */
export const newReplyId = () => crypto.getRandomValues(new Uint8Array(16)).reduce((id, byte) => id + byte.toString(16).padStart(2, '0'), '');

/** @returns {number} 0 to 2³²−1 */
export const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
