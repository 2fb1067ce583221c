/**
 * A conversation is a tree of messages: editing and regenerating add siblings, nothing but a deletion removes.
 * The visible branch is not a stored path but a set of choices, one child per fork, so that coming back to an alternative
 * restores everything that was chosen below it.
 */

/**
 * @typedef {'user' | 'assistant'} Role
 * @typedef {'complete' | 'streaming' | 'stopped' | 'error' | 'cut'} Status `cut`: the reply met the context or token limit
 *
 * @typedef {object} Message
 * @property {string} id
 * @property {string} conversation
 * @property {string | null} parent null for a first message
 * @property {Role} role
 * @property {string} content
 * @property {number} time milliseconds since the epoch; siblings are ordered by it, then by id
 * @property {Status} status
 * @property {boolean} [edited]
 * @property {Earlier[]} [earlier] what it said before it was changed in place, oldest first
 * @property {Asked} [asked] what the reply was made from
 * @property {string} [model]
 * @property {boolean} [demo] written by the built-in demo model
 * @property {Record<string, unknown>} [params] sampling parameters, the seed really used included
 * @property {Timings} [timings]
 * @property {number} [promptTokens] of the prompt that led to it
 * @property {number} [replyTokens]
 * @property {'token_limit' | 'context_full'} [cutBy] which limit a `cut` reply met
 * @property {boolean} [truncated] the model did not read all that was sent
 * @property {number} [dropped] older messages that the server left out of the prompt
 * @property {import('./state.js').Failure} [failure]
 * @property {Attachment[]} [files]
 * @property {Probabilities} [probs]
 * @property {import('./api.js').Place} [reply] while it is being written: where the server keeps it
 *
 * @typedef {{ content: string, until: number }} Earlier
 *
 * @typedef {object} Asked what a reply was made from, apart from the messages above it
 * @property {number} at when it was asked for, in milliseconds since the epoch
 * @property {number} first messages at the start of the branch that were sent
 * @property {number} from after those, the first one that was sent
 * @property {number} length characters of its own text that were there already
 * @property {string} system
 * @property {Record<string, string>} templates as a request has them
 *
 * @typedef {object} Timings
 * @property {number} [prompt_n] tokens of the prompt that were read
 * @property {number} [prompt_per_second]
 * @property {number} [predicted_n] tokens written
 * @property {number} [predicted_per_second]
 * @property {number} [first_ms] milliseconds from sending to the first token
 * @property {number} [cache_n] tokens of the prompt that were still in the cache
 *
 * @typedef {[text: string, probability: number, likeliest: [text: string, probability: number][]]} Token
 *
 * @typedef {object} Probabilities how likely the tokens of a reply were
 * @property {number} from characters of the content before the first of them
 * @property {Token[]} list their texts, joined, are the rest of the content
 *
 * @typedef {object} Attachment
 * @property {string} name
 * @property {string} text
 *
 * @typedef {Record<string, string>} Choices parent id (ROOT for first messages) to the chosen child
 * @typedef {Map<string, Message>} Tree
 */

/** The key of first messages in `Choices`. */
export const ROOT = '';

/** @param {Message} a @param {Message} b */
const byAge = (a, b) => a.time - b.time || (a.id < b.id ? -1 : 1);

/**
 * @param {Tree} tree
 * @param {string | null} parent
 * @returns {Message[]} oldest first
 */
export function children(tree, parent) {
  const found = [];
  for (const message of tree.values()) if (message.parent === parent) found.push(message);
  return found.sort(byAge);
}

/**
 * All children lists at once; walking a chat of thousands of messages must not be quadratic.
 * @param {Tree} tree
 * @returns {Map<string, Message[]>}
 */
export function index(tree) {
  /** @type {Map<string, Message[]>} */
  const byParent = new Map();
  for (const message of tree.values()) {
    const key = message.parent ?? ROOT;
    const list = byParent.get(key);
    if (list) list.push(message);
    else byParent.set(key, [message]);
  }
  for (const list of byParent.values()) list.sort(byAge);
  return byParent;
}

/**
 * The visible branch, from the first message to its leaf. Where nothing was chosen the newest child counts.
 * @param {Tree} tree
 * @param {Choices} choices
 * @returns {Message[]}
 */
export function path(tree, choices) {
  const byParent = index(tree);
  const found = [];
  let key = ROOT;
  for (;;) {
    const list = byParent.get(key);
    if (!list) return found;
    const chosen = list.find((m) => m.id === choices[key]) ?? list[list.length - 1];
    found.push(chosen);
    key = chosen.id;
  }
}

/**
 * The messages from the first one down to `id`, that one included.
 * @param {Tree} tree
 * @param {string | null} id
 * @returns {Message[]}
 */
export function ancestry(tree, id) {
  const found = [];
  const seen = new Set();
  for (let at = id; at !== null && !seen.has(at); ) {
    const message = tree.get(at);
    if (!message) break;
    seen.add(at);
    found.push(message);
    at = message.parent;
  }
  return found.reverse();
}

/**
 * The choices that make `id` visible; choices elsewhere stay.
 * @param {Tree} tree
 * @param {Choices} choices
 * @param {string} id
 * @returns {Choices}
 */
export function choose(tree, choices, id) {
  const changed = { ...choices };
  for (const message of ancestry(tree, id)) changed[message.parent ?? ROOT] = message.id;
  return changed;
}

/**
 * The choices after others have written, too: of what is new, the message that was made last is in front wherever it is
 * newer than what was chosen, so that everybody who looks comes to the same branch.
 * @param {Tree} tree
 * @param {Choices} choices
 * @param {(message: Message) => boolean} isNew
 * @returns {Choices} the same object when nothing changes
 */
export function chooseNewest(tree, choices, isNew) {
  let chosen = choices;
  for (const message of [...tree.values()].filter(isNew).sort(byAge)) {
    const key = message.parent ?? ROOT;
    const before = tree.get(chosen[key] ?? '');
    if (!before || byAge(before, message) < 0) chosen = { ...chosen, [key]: message.id };
  }
  return chosen;
}

/**
 * Where `id` stands among its alternatives.
 * @param {Tree} tree
 * @param {string} id
 * @returns {{ position: number, count: number, previous: string | null, next: string | null }} position counts from 1
 */
export function alternatives(tree, id) {
  const message = tree.get(id);
  if (!message) return { position: 0, count: 0, previous: null, next: null };
  const list = children(tree, message.parent);
  const at = list.findIndex((m) => m.id === id);
  return {
    position: at + 1,
    count: list.length,
    previous: list[at - 1]?.id ?? null,
    next: list[at + 1]?.id ?? null,
  };
}

/**
 * `id` and everything below it, in no order.
 * @param {Tree} tree
 * @param {string} id
 * @returns {Message[]}
 */
export function subtree(tree, id) {
  const byParent = index(tree);
  const found = [];
  const open = [id];
  while (open.length > 0) {
    const at = /** @type {string} */ (open.pop());
    const message = tree.get(at);
    if (!message) continue;
    found.push(message);
    for (const child of byParent.get(at) ?? []) open.push(child.id);
  }
  return found;
}

/**
 * @param {Tree} tree
 * @param {Message[]} messages to put in, or to replace by id
 * @returns {Tree}
 */
export function put(tree, ...messages) {
  const changed = new Map(tree);
  for (const message of messages) changed.set(message.id, message);
  return changed;
}

/**
 * The tree without `id` and what is below it.
 * @param {Tree} tree
 * @param {string} id
 * @returns {{ tree: Tree, removed: Message[] }}
 */
export function remove(tree, id) {
  const removed = subtree(tree, id);
  const changed = new Map(tree);
  for (const message of removed) changed.delete(message.id);
  return { tree: changed, removed };
}

/**
 * A copy of the messages down to `id` as a chat of its own, with fresh ids.
 * @param {Tree} tree
 * @param {string} id
 * @param {string} conversation id of the new chat
 * @param {() => string} newId
 * @returns {Message[]}
 */
export function branch(tree, id, conversation, newId) {
  /** @type {string | null} */
  let parent = null;
  return ancestry(tree, id).map((message) => {
    const copy = { ...message, id: newId(), conversation, parent };
    parent = copy.id;
    return copy;
  });
}

/**
 * A tree from stored or imported records. Messages whose parent is missing, or that would form a circle, are attached to
 * the start, so that nothing that was stored can become unreachable.
 * @param {Iterable<Message>} messages
 * @returns {Tree}
 */
export function fromRecords(messages) {
  /** @type {Tree} */
  const tree = new Map();
  for (const message of messages) tree.set(message.id, message);
  for (const message of tree.values()) {
    if (message.parent !== null && !tree.has(message.parent)) tree.set(message.id, { ...message, parent: null });
  }
  /** @type {Set<string>} ids known to reach a first message */
  const rooted = new Set();
  for (const start of tree.keys()) {
    const trail = new Set();
    /** @type {string | null} */
    let at = start;
    while (at !== null && !rooted.has(at)) {
      const message = /** @type {Message} */ (tree.get(at));
      if (trail.has(at)) {
        tree.set(at, { ...message, parent: null });
        break;
      }
      trail.add(at);
      at = message.parent;
    }
    for (const id of trail) rooted.add(id);
  }
  return tree;
}

/**
 * What a message said at some time; later changes in place are undone.
 * @param {Message} message
 * @param {number} time
 * @returns {string}
 */
export const contentAt = ({ content, earlier = [] }, time) => earlier.find(({ until }) => until > time)?.content ?? content;
