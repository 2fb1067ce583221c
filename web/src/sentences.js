/** Cuts a growing text into whole sentences, for reading aloud while it is written. */
export class Sentences {
  constructor() {
    /** How much of the text has been given out. */
    this.given = 0;
  }

  /**
   * The sentences that have become whole since the last call.
   * @param {string} text all of it so far; only grows
   * @param {boolean} [last] the text is complete: its rest counts as a sentence
   * @returns {string} '' when there is nothing new
   */
  take(text, last = false) {
    const rest = text.slice(this.given);
    // A sentence ends with its mark and a space after it, or with a line: "3.5" is no end.
    const ends = [...rest.matchAll(/[.!?…。！？]["'”’)\]]*(?=\s)|\n/g)];
    const end = ends.at(-1);
    const until = last ? rest.length : end ? end.index + end[0].length : 0;
    this.given += until;
    return rest.slice(0, until).trim();
  }
}
