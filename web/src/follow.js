/**
 * Keeps a growing reply in view: only while the reader is at the end, and never against the reader's hand.
 */

const NEAR_PX = 48;

export class Follower {
  /**
   * @param {HTMLElement} scroller
   * @param {HTMLElement} content
   * @param {(atEnd: boolean) => void} onChange
   */
  constructor(scroller, content, onChange) {
    this.scroller = scroller;
    this.content = content;
    this.following = true;
    this.atEnd = true;
    /** Where the view was last. */
    this.top = scroller.scrollTop;
    this.onChange = onChange;
    this.abort = new AbortController();
    const { signal } = this.abort;
    const leave = () => {
      this.following = false;
    };
    scroller.addEventListener('wheel', (event) => event.deltaY < 0 && leave(), { passive: true, signal });
    scroller.addEventListener('touchmove', leave, { passive: true, signal });
    scroller.addEventListener('keydown', (event) => ['PageUp', 'Home', 'ArrowUp'].includes(event.key) && leave(), { signal });
    content.addEventListener('focusin', () => this.#isReadingAbove() && leave(), { signal });
    document.addEventListener(
      'selectionchange',
      () => {
        const selection = document.getSelection();
        if (selection && !selection.isCollapsed && content.contains(selection.anchorNode)) leave();
      },
      { signal },
    );
    scroller.addEventListener(
      'scroll',
      () => {
        // Upwards, by whatever means: the scroll bar, a search result, a link.
        const up = scroller.scrollTop < this.top - 1;
        this.#look();
        if (up && !this.atEnd) leave();
      },
      { passive: true, signal },
    );
    this.observer = new ResizeObserver(() => {
      if (this.following) this.jump();
      else this.#look();
    });
    this.observer.observe(content);
    this.observer.observe(scroller);
  }

  /** Goes to the end and stays there; where there are no messages yet, the beginning is what counts. */
  jump() {
    this.following = true;
    const isEmpty = this.content.querySelector('article') === null;
    this.scroller.scrollTop = isEmpty ? 0 : this.scroller.scrollHeight;
    this.#look();
  }

  close() {
    this.abort.abort();
    this.observer.disconnect();
  }

  /** Scrolls by about a page. @param {1 | -1} direction */
  page(direction) {
    if (direction < 0) this.following = false;
    this.scroller.scrollBy({ top: direction * this.scroller.clientHeight * 0.9 });
  }

  /** Whether the focus is in a message above the last one. */
  #isReadingAbove() {
    const { content } = this;
    const focused = document.activeElement;
    return content.contains(focused) && !content.lastElementChild?.contains(focused);
  }

  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.top = scrollTop;
    const atEnd = scrollHeight - scrollTop - clientHeight <= NEAR_PX;
    // Coming back to the end by hand follows again, unless something there is selected or has the focus.
    if (atEnd && document.getSelection()?.isCollapsed !== false && !this.#isReadingAbove()) this.following = true;
    if (atEnd !== this.atEnd) {
      this.atEnd = atEnd;
      this.onChange(atEnd);
    }
  }
}
