import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

import { Icon, IconButton } from './icons.jsx';

const EDGE_PX = 8;

/**
 * A button that opens a list of actions. It is a plain disclosure: Tab moves through the actions, Escape closes.
 * @param {{ icon?: string, label: string, items: { icon: string, label: string, act: () => void, danger?: boolean }[], class?: string }} props
 */
export function Menu({ icon = 'more', label, items, class: extra = '' }) {
  const [open, setOpen] = useState(false);
  const [above, setAbove] = useState(false);
  const [shift, setShift] = useState(0);
  const list = useRef(/** @type {HTMLUListElement | null} */ (null));
  // Never beyond the edge of the page.
  useLayoutEffect(() => {
    const box = open ? list.current?.getBoundingClientRect() : undefined;
    if (!box) setShift(0);
    else if (box.right > innerWidth - EDGE_PX) setShift(innerWidth - EDGE_PX - box.right);
    else if (box.left < EDGE_PX) setShift(EDGE_PX - box.left);
  }, [open]);
  useLayoutEffect(() => list.current?.style.setProperty('translate', `${shift}px`), [shift, open]);
  const root = useRef(/** @type {HTMLDivElement | null} */ (null));
  useEffect(() => {
    if (!open) return undefined;
    const close = (/** @type {Event} */ event) => {
      if (!root.current?.contains(/** @type {Node} */ (event.target))) setOpen(false);
    };
    document.addEventListener('pointerdown', close);
    document.addEventListener('focusin', close);
    return () => {
      document.removeEventListener('pointerdown', close);
      document.removeEventListener('focusin', close);
    };
  }, [open]);
  /** @param {KeyboardEvent} event */
  const onKeyDown = (event) => {
    const buttons = /** @type {HTMLButtonElement[]} */ ([...(root.current?.querySelectorAll('.menu-items button') ?? [])]);
    const at = buttons.indexOf(/** @type {any} */ (document.activeElement));
    if (event.key === 'Escape' && open) {
      event.stopPropagation();
      setOpen(false);
      root.current?.querySelector('button')?.focus();
    } else if (open && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
      event.preventDefault();
      const step = event.key === 'ArrowDown' ? 1 : -1;
      buttons[(at + step + buttons.length) % buttons.length]?.focus();
    }
  };
  return (
    <div class={`menu ${extra} ${open ? 'open' : ''}`} ref={root} onKeyDown={onKeyDown}>
      <IconButton
        icon={icon}
        label={label}
        expanded={open}
        onClick={(event) => {
          const place = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
          setAbove(place.bottom + 44 * items.length > innerHeight - 100);
          setOpen(!open);
        }}
      />
      {open && (
        <ul ref={list} class={`menu-items ${above ? 'above' : ''}`}>
          {items.map((item) => (
            <li key={item.label}>
              <button
                type="button"
                class={item.danger ? 'danger' : ''}
                onClick={() => {
                  setOpen(false);
                  root.current?.querySelector('button')?.focus();
                  item.act();
                }}
              >
                <Icon name={item.icon} />
                {item.label}
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
