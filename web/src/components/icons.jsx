/**
 * Line icons on a grid of 24; they take the color of the text around them and are never the only name of a button.
 * @type {Record<string, string>}
 */
const PATHS = {
  menu: 'M4 6h16M4 12h16M4 18h16',
  plus: 'M12 5v14M5 12h14',
  search: 'M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM20 20l-4-4',
  settings: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 9.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM9 19.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z',
  power: 'M12 3v8M7 6.5a7.5 7.5 0 1 0 10 0',
  sun: 'M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4',
  moon: 'M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.5 10.5z',
  auto: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 3v18M12 8h4.5M12 12h6M12 16h4.5',
  send: 'M12 19V5M6 11l6-6 6 6',
  clip: 'M20 11.5l-8 8a5 5 0 0 1-7-7l8.5-8.5a3.3 3.3 0 0 1 4.7 4.7L9.7 17.2a1.7 1.7 0 0 1-2.4-2.4l7.7-7.7',
  copy: 'M9 9h10v11H9zM5 15V4h10',
  edit: 'M4 20h4L19 9l-4-4L4 16zM13 7l4 4',
  redo: 'M20 11a8 8 0 1 0-1.5 6M20 5v6h-6',
  more: 'M6 12h.01M12 12h.01M18 12h.01',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13',
  left: 'M14 6l-6 6 6 6',
  right: 'M10 6l6 6-6 6',
  down: 'M12 5v14M6 13l6 6 6-6',
  close: 'M6 6l12 12M18 6L6 18',
  play: 'M8 5l11 7-11 7z',
  branch: 'M7 4v10M7 14a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM17 10a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM17 10c0 4-5 3-8 5.5',
  info: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v5M12 8h.01',
  pin: 'M9 4h6l-1 6 4 4H6l4-4zM12 14v6',
  download: 'M12 4v11M7 11l5 5 5-5M5 20h14',
  upload: 'M12 16V5M7 9l5-5 5 5M5 20h14',
  help: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .9-1 1.7M12 16.5h.01',
  keyboard: 'M3 7h18v10H3zM7 11h.01M11 11h.01M15 11h.01M8 14h8',
  text: 'M5 6h14M5 10.5h14M5 15h9M5 19.5h6',
  braces: 'M8 4c-3 0-1 7-4 8 3 1 1 8 4 8M16 4c3 0 1 7 4 8-3 1-1 8-4 8',
  check: 'M5 12.5l4.5 4.5L19 7.5',
};

/** @param {{ name: keyof typeof PATHS }} props */
export function Icon({ name }) {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The mark of the program. */
export function Gem() {
  return (
    <svg class="gem" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <path class="gem-a" d="M16 2 29 12 16 30 3 12z" />
      <path class="gem-b" d="M16 2 22 12 16 30 3 12z" />
      <path class="gem-c" d="M16 2 22 12H10z" />
      <path class="gem-d" d="M3 12h7l6 18z" />
    </svg>
  );
}

/**
 * A button that shows only an icon; its name is read aloud and appears as a tip.
 * @param {{ icon: string, label: string, onClick?: (event: MouseEvent) => void, disabled?: boolean, class?: string,
 *   pressed?: boolean, expanded?: boolean, id?: string }} props
 */
export function IconButton({ icon, label, onClick, disabled, class: extra = '', pressed, expanded, id }) {
  return (
    <button
      type="button"
      id={id}
      class={`icon-button ${extra}`}
      aria-label={label}
      title={label}
      onClick={onClick}
      disabled={disabled}
      aria-pressed={pressed}
      aria-expanded={expanded}
    >
      <Icon name={icon} />
    </button>
  );
}
