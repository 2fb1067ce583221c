/**
 * Chats in the browser's own database. One record for each message, never one for a whole conversation: a long chat must not
 * be rewritten for every new line.
 *
 * A write that fails (quota, private mode) is kept in memory and reported; it never clears what is stored, and later reads
 * see it as if it had been stored. It is stored as soon as there is room again.
 */

/**
 * @typedef {import('./tree.js').Message} Message
 *
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {boolean} [titled] named by a person: never renamed by the page
 * @property {number} created
 * @property {number} updated
 * @property {boolean} [pinned]
 * @property {import('./tree.js').Choices} choices
 * @property {Partial<import('./settings.js').Settings>} settings what this chat changes
 * @property {string} [text] makes it a raw text: no messages, the model simply goes on
 * @property {boolean} [literal] in a raw text, markers such as `<start_of_turn>` are ordinary characters
 * @property {boolean} [demo] the demo model wrote in a raw text
 * @property {import('./api.js').Place} [reply] while a raw text is being written: where the server keeps it
 * @property {string} [sendFrom] id of the first message that is sent; older ones of the branch are left out. '': all
 *   are, and it becomes the next message
 *
 * @typedef {{ value: string, files: import('./tree.js').Attachment[] }} Draft what is typed and attached
 * @typedef {'conversations' | 'messages' | 'settings' | 'drafts'} StoreName
 * @typedef {{ store: StoreName, put?: any, remove?: string }} Write
 */

const NAME = 'gemma2';

/**
 * How the database came to be what it is: step n makes version n + 1 from version n, inside the one transaction of the
 * upgrade, so that a step that fails leaves everything as it was. A step never changes once it was released. One that gives
 * records another shape writes them into a new store; only a later step may delete the old one.
 * @type {((database: IDBDatabase, transaction: IDBTransaction) => void)[]}
 */
const STEPS = [
  (database) => {
    database.createObjectStore('conversations', { keyPath: 'id' });
    database.createObjectStore('messages', { keyPath: 'id' }).createIndex('conversation', 'conversation');
    database.createObjectStore('settings', { keyPath: 'id' });
    database.createObjectStore('drafts', { keyPath: 'id' });
  },
];

/** What stands for a deleted record in memory. */
const GONE = Symbol('gone');

export class Store {
  /**
   * @param {IDBDatabase | null} database null: everything stays in memory
   * @param {BroadcastChannel | null} [channel] tells other tabs what changed
   */
  constructor(database, channel = null) {
    this.database = database;
    this.channel = channel;
    /** @type {Record<StoreName, Map<string, any>>} what could not be stored */
    this.memory = { conversations: new Map(), messages: new Map(), settings: new Map(), drafts: new Map() };
    this.failed = database === null;
    /** The stored chats were written by a newer page, which this one cannot read. */
    this.isNewer = false;
    /** @type {() => void} called once, when the first write fails */
    this.onFailure = () => {};
    /** @type {() => void} called when everything that was kept in memory has been stored after all */
    this.onRecovery = () => {};
    /** @type {(conversation: string | null) => void} another tab changed this chat, or the list when null */
    this.onForeignChange = () => {};
    /** @type {() => void} another tab changed a setting */
    this.onForeignSetting = () => {};
    if (channel) channel.onmessage = ({ data }) => (data?.setting !== undefined ? this.onForeignSetting() : this.onForeignChange(data?.conversation ?? null));
  }

  /**
   * Opens the database, or a store in memory where there is none.
   * @param {IDBFactory | undefined} [factory]
   * @param {typeof STEPS} [steps] from an empty database to the one that is wanted
   * @returns {Promise<Store>}
   */
  static async open(factory = globalThis.indexedDB, steps = STEPS) {
    const channel = typeof BroadcastChannel === 'function' ? new BroadcastChannel(NAME) : null;
    try {
      return new Store(await openDatabase(factory, steps), channel);
    } catch (error) {
      const store = new Store(null, channel);
      store.isNewer = /** @type {any} */ (error)?.name === 'VersionError';
      return store;
    }
  }

  /** Closes the database and the channel. */
  close() {
    this.database?.close();
    this.channel?.close();
  }

  /** @returns {Promise<Conversation[]>} in no order */
  async conversations() {
    return this.#all('conversations');
  }

  /** @param {string} conversation @returns {Promise<Message[]>} */
  async messages(conversation) {
    const stored = await this.#read('messages', (store) => store.index('conversation').getAll(conversation));
    return this.#merged('messages', stored ?? []).filter((message) => message.conversation === conversation);
  }

  /** @returns {Promise<Message[]>} of every conversation; for search and export */
  async allMessages() {
    return this.#all('messages');
  }

  /** @param {string} key @returns {Promise<any>} */
  async setting(key) {
    return (await this.#one('settings', key))?.value;
  }

  /** @param {string} key @param {unknown} value */
  async saveSetting(key, value) {
    await this.saveOwn(key, value);
    this.#announce({ setting: key });
  }

  /** As `saveSetting`, for what is no other tab's business. @param {string} key @param {unknown} value */
  async saveOwn(key, value) {
    await this.#write([{ store: 'settings', put: { id: key, value } }]);
  }

  /** @param {string} conversation @returns {Promise<Draft>} */
  async draft(conversation) {
    const { value = '', files = [] } = (await this.#one('drafts', conversation)) ?? {};
    return { value, files };
  }

  /** @param {string} conversation @param {string} value @param {import('./tree.js').Attachment[]} [files] */
  async saveDraft(conversation, value, files = []) {
    const isEmpty = value === '' && files.length === 0;
    await this.#write([isEmpty ? { store: 'drafts', remove: conversation } : { store: 'drafts', put: { id: conversation, value, files } }]);
  }

  /**
   * Saves what changed in one transaction: all of it or nothing.
   * @param {{ conversations?: Conversation[], messages?: Message[], removeMessages?: string[], removeConversations?: string[] }} change
   */
  async save({ conversations = [], messages = [], removeMessages = [], removeConversations = [] }) {
    /** @type {Write[]} */
    const writes = [
      ...conversations.map((put) => ({ store: /** @type {const} */ ('conversations'), put })),
      ...messages.map((put) => ({ store: /** @type {const} */ ('messages'), put })),
      ...removeMessages.map((remove) => ({ store: /** @type {const} */ ('messages'), remove })),
      ...removeConversations.flatMap((remove) => [
        { store: /** @type {const} */ ('conversations'), remove },
        { store: /** @type {const} */ ('drafts'), remove },
      ]),
    ];
    await this.#write(writes, conversations[0]?.id ?? messages[0]?.conversation ?? null);
  }

  /** Deletes everything this page ever stored. */
  async clear() {
    /** @type {StoreName[]} */
    const names = ['conversations', 'messages', 'settings', 'drafts'];
    for (const name of names) this.memory[name].clear();
    if (this.database) {
      const transaction = this.database.transaction(names, 'readwrite');
      for (const name of names) transaction.objectStore(name).clear();
      await finished(transaction);
    }
    this.#announceAll();
  }

  /** @param {StoreName} name @returns {Promise<any[]>} */
  async #all(name) {
    return this.#merged(name, (await this.#read(name, (store) => store.getAll())) ?? []);
  }

  /** @param {StoreName} name @param {string} id @returns {Promise<any>} */
  async #one(name, id) {
    const kept = this.memory[name].get(id);
    if (kept !== undefined) return kept === GONE ? undefined : kept;
    return this.#read(name, (store) => store.get(id));
  }

  /**
   * What is stored, or undefined where nothing can be read: another tab may have taken the database over.
   * @param {StoreName} name
   * @param {(store: IDBObjectStore) => IDBRequest<any>} query
   * @returns {Promise<any>}
   */
  async #read(name, query) {
    try {
      return this.database ? await result(query(this.database.transaction(name).objectStore(name))) : undefined;
    } catch {
      return undefined;
    }
  }

  /** @param {StoreName} name @param {any[]} stored */
  #merged(name, stored) {
    const memory = this.memory[name];
    if (memory.size === 0) return stored;
    const kept = stored.filter((record) => !memory.has(record.id));
    return [...kept, ...[...memory.values()].filter((record) => record !== GONE)];
  }

  /**
   * @param {Write[]} writes
   * @param {string | null} [conversation] what to tell other tabs; undefined: nothing
   */
  async #write(writes, conversation) {
    if (writes.length === 0) return;
    try {
      await this.#transact(writes);
      for (const write of writes) this.memory[write.store].delete(write.remove ?? write.put.id);
      if (this.failed) await this.#recover();
    } catch {
      for (const write of writes) this.memory[write.store].set(write.remove ?? write.put.id, write.put ?? GONE);
      if (!this.failed || this.database === null) {
        this.failed = true;
        this.onFailure();
      }
    }
    if (conversation !== undefined) this.#announce({ conversation });
  }

  /** @param {Write[]} writes all of them or none */
  async #transact(writes) {
    if (!this.database) throw new Error('no database');
    const names = [...new Set(writes.map((write) => write.store))];
    const transaction = this.database.transaction(names, 'readwrite');
    for (const write of writes) {
      const target = transaction.objectStore(write.store);
      if (write.remove !== undefined) target.delete(write.remove);
      else target.put(write.put);
    }
    await finished(transaction);
  }

  /** There is room again: what is kept in memory goes where it belongs. */
  async #recover() {
    const kept = /** @type {StoreName[]} */ (Object.keys(this.memory)).flatMap((store) =>
      [...this.memory[store]].map(([id, record]) => ({ store, id, record })),
    );
    try {
      if (kept.length > 0) await this.#transact(kept.map(({ store, id, record }) => (record === GONE ? { store, remove: id } : { store, put: record })));
    } catch {
      return;
    }
    for (const { store, id, record } of kept) {
      // Something newer may have come meanwhile.
      if (this.memory[store].get(id) === record) this.memory[store].delete(id);
    }
    this.failed = false;
    this.onRecovery();
    if (kept.length > 0) this.#announceAll();
  }

  #announceAll() {
    this.#announce({ conversation: null });
    this.#announce({ setting: '' });
  }

  /** @param {{ conversation: string | null } | { setting: string }} what has changed */
  #announce(what) {
    try {
      this.channel?.postMessage(what);
    } catch {
      // A closed channel only means that other tabs learn of the change when they reload.
    }
  }
}

/**
 * @param {IDBFactory | undefined} factory
 * @param {typeof STEPS} steps
 * @returns {Promise<IDBDatabase>}
 */
function openDatabase(factory, steps) {
  return new Promise((resolve, reject) => {
    if (!factory) {
      reject(new Error('no IndexedDB'));
      return;
    }
    const request = factory.open(NAME, steps.length);
    request.onupgradeneeded = ({ oldVersion }) => {
      const transaction = /** @type {IDBTransaction} */ (request.transaction);
      for (const step of steps.slice(oldVersion)) step(request.result, transaction);
    };
    request.onsuccess = () => {
      // Another tab with a newer page wants to upgrade: let it, this tab goes on in memory.
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error('blocked'));
  });
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction @returns {Promise<void>} */
function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}
