/** The parts that settings are made of: a field with its default, a number, a text, a choice, a tick box. */

import { useEffect, useRef, useState } from 'preact/hooks';

import { useApp } from '../context.js';
import { formatNumber, t } from '../i18n.js';
import { clamp } from '../settings.js';

/**
 * A label, a help line, a dot when the field differs from its default, and a button that goes back.
 * @param {{ name: keyof import('../settings.js').Settings, label: string, help?: string, id: string, fallback?: string,
 *   children: import('preact').ComponentChildren, note?: string }} props
 */
export function Field({ name, label, help, id, fallback, children, note }) {
  const app = useApp();
  const own = name in app.state.conversation.settings;
  return (
    <div class={`field ${own ? 'changed' : ''}`}>
      <div class="field-head">
        <label for={id}>{label}</label>
        {own && (
          <>
            <span class="dot">
              <span class="visually-hidden">{t('settings.changed')}</span>
            </span>
            <button
              type="button"
              class="link"
              aria-label={t('settings.resetField', { name: label })}
              onClick={() => app.changeSetting(name, app.baseSettings[name])}
            >
              {t('settings.reset')}
            </button>
          </>
        )}
        {fallback !== undefined && <span class="fallback">{t('settings.default', { value: fallback })}</span>}
      </div>
      {children}
      {help && (
        <p class="help" id={`${id}-help`}>
          {help}
        </p>
      )}
      {note && <p class="note">{note}</p>}
    </div>
  );
}

/** @param {{ field: import('../settings.js').NumberField }} props */
export function NumberSetting({ field }) {
  const app = useApp();
  const { settings, baseSettings } = app;
  const value = /** @type {number} */ (settings[field.key]);
  const [typed, setTyped] = useState(/** @type {string | null} */ (null));
  const id = `setting-${field.key}`;
  const label = t(/** @type {any} */ (`field.${field.key}`));
  const useless = settings.temperature === 0 && field.needsRandomness === true;
  /** @param {string} text */
  const change = (text) => {
    const number = Number(text);
    if (text.trim() !== '' && Number.isFinite(number)) app.changeSetting(field.key, clamp(field, number));
  };
  return (
    <Field
      name={field.key}
      id={id}
      label={label}
      help={t(/** @type {any} */ (`field.${field.key}Help`))}
      fallback={written(field, /** @type {number} */ (baseSettings[field.key]))}
      note={useless ? t('field.greedy') : undefined}
    >
      <div class={`number ${useless ? 'useless' : ''}`}>
        {field.key !== 'seed' && (
          <input
            type="range"
            aria-label={label}
            disabled={useless}
            min={field.min}
            max={field.sliderMax ?? field.max}
            step={field.step}
            value={Math.min(value, field.sliderMax ?? field.max)}
            onInput={(event) => {
              setTyped(null);
              change(event.currentTarget.value);
            }}
          />
        )}
        <input
          id={id}
          type="number"
          inputMode="decimal"
          disabled={useless}
          aria-describedby={`${id}-help`}
          min={field.min}
          max={field.max}
          step={Number.isInteger(field.step) ? field.step : 'any'}
          value={typed ?? String(value)}
          onInput={(event) => {
            setTyped(event.currentTarget.value);
            change(event.currentTarget.value);
          }}
          onBlur={() => setTyped(null)}
        />
      </div>
    </Field>
  );
}

/**
 * A text area that keeps what is typed even where the stored value would be a cleaned form of it.
 * @param {{ id: string, value: string, rows: number, onText: (text: string) => void, placeholder?: string, code?: boolean,
 *   invalid?: boolean }} props
 */
export function TextArea({ id, value, rows, onText, placeholder, code, invalid }) {
  const area = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  useEffect(() => {
    const element = area.current;
    if (element && document.activeElement !== element && element.value !== value) element.value = value;
  }, [value]);
  return (
    <textarea
      id={id}
      ref={area}
      rows={rows}
      dir="auto"
      class={code ? 'code-field' : ''}
      spellcheck={!code}
      defaultValue={value}
      placeholder={placeholder}
      aria-invalid={invalid}
      aria-describedby={invalid ? `${id}-problem ${id}-help` : `${id}-help`}
      onInput={(event) => onText(event.currentTarget.value)}
    />
  );
}

/**
 * @param {{ label: string, name: string, value: string, options: [string, string][], onChange: (value: string) => void,
 *   headed?: boolean }} props `headed`: its name stands above it already
 */
export function Choice({ label, name, value, options, onChange, headed = false }) {
  return (
    <fieldset class="choice">
      <legend class={headed ? 'visually-hidden' : ''}>{label}</legend>
      <div class="segments">
        {options.map(([option, text]) => (
          <label key={option}>
            <input
              id={value === option ? `setting-${name}` : undefined}
              type="radio"
              name={name}
              value={option}
              checked={value === option}
              onChange={() => onChange(option)}
            />
            <span>{text}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

/** @param {{ label: string, checked: boolean, onChange: (checked: boolean) => void }} props */
export function Check({ label, checked, onChange }) {
  return (
    <label class="check">
      <input type="checkbox" checked={checked} onChange={(event) => onChange(event.currentTarget.checked)} />
      {label}
    </label>
  );
}

const LONGEST_DEFAULT = 40;

/** @param {string} text a default, in one short line */
export function shortened(text) {
  const line = text.replaceAll('\n', '⏎');
  return line === '' ? t('field.none') : line.length > LONGEST_DEFAULT ? `${line.slice(0, LONGEST_DEFAULT)}…` : line;
}

/** @param {import('../settings.js').NumberField} field @param {number} value */
function written(field, value) {
  if (field.key === 'seed' && value < 0) return t('field.random');
  if (field.key === 'maxTokens' && value === 0) return t('field.unlimited');
  const number = formatNumber(value, { maximumFractionDigits: 3, useGrouping: false });
  return field.off === value ? `${number} (${t('field.off')})` : number;
}
